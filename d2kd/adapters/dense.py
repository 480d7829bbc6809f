"""Adapter of Detectron2's one-stage detectors: RetinaNet, FCOS and classes derived from them."""

from typing import Callable, ClassVar, Dict, FrozenSet, List, Optional, Tuple

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..detectors import Predicted
from ..detectors.inference import with_quality
from .base import DETECTOR_ADAPTER_REGISTRY, DetectorAdapter
from .output import DetectorOutput, DetectorSpec
from .padding import valid_cells
from .sets import best_cells, clipped, suppressed
from .towers import has_towers, predict_level, run_head_with_taps, run_tower

_TAPS = frozenset({"cls_taps", "reg_taps"})
STEPS: Tuple[Callable, ...] = (DenseDetector.forward, DenseDetector.preprocess_image)
"""What is repeated of every dense detector."""


@DETECTOR_ADAPTER_REGISTRY.register()
class DenseDetectorAdapter(DetectorAdapter):
    """One anchor set or point per cell, a class tower and a box tower shared by all levels."""

    detector: DenseDetector
    replays: ClassVar[Tuple[Callable, ...]] = (
        *STEPS,
        RetinaNet.forward_training,
        FCOS.forward_training,
    )
    conditions = dict.fromkeys(sorted(_TAPS), "the forward of RetinaNetHead, FCOSHead or TowerHead")
    predicted: ClassVar[Tuple[str, ...]] = ("logits", "deltas", "quality")
    """Fields that the head's predictions fill, in their order; it may have fewer."""
    provides = frozenset(
        "features cls_taps reg_taps logits scores deltas quality valid anchors labels "
        "matched_boxes gt sets".split()
    )

    def __init__(self, detector: DenseDetector) -> None:
        """See the base class."""
        super().__init__(detector)
        shapes = detector.backbone.output_shape()
        self._strides = [shapes[name].stride for name in detector.head_in_features]
        self._has_quality = hasattr(detector.head, "ctrness")
        if not self._has_quality:
            self.provides = self.provides - {"quality"}
        if not has_towers(detector.head):
            self.provides = self.provides - _TAPS

    def spec(self) -> DetectorSpec:
        """See the base class."""
        m, head = self.detector, self.detector.head
        shapes = m.backbone.output_shape()
        tower = head.cls_subnet if has_towers(head) else ()
        convs = [layer for layer in tower if isinstance(layer, nn.Conv2d)]
        return DetectorSpec(
            name=type(m).__name__,
            features={shapes[f].stride: shapes[f] for f in m.head_in_features},
            num_classes=m.num_classes,
            tower_width=convs[-1].out_channels if convs else 0,
            num_convs=len(convs),
            num_anchors=m.anchor_generator.num_anchors[0],
            box_coding="distance" if self._has_quality else "anchor_delta",
            quality="centerness" if self._has_quality else "",
            points=f"{type(m.anchor_generator).__name__} at {m.anchor_generator.offset:g}",
        )

    def compilable(self) -> List[nn.Module]:
        """See the base class."""
        return [self.detector.backbone, self.detector.head]

    def forward(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """See the base class."""
        m = self.detector
        pyramid = m.backbone(images.tensor)
        features = [pyramid[name] for name in m.head_in_features]
        out = DetectorOutput(images, self, dict(zip(self._strides, features, strict=True)))
        if gt is None and need <= {"features", "gt"}:
            return out
        self._predict(out, features, need)
        if gt is not None:
            self._supervise(out, gt)
        elif "sets" in need:
            sets = self._sets(out)
            if need <= {"features", "sets", "gt"}:  # no predictions are kept
                maps = out.features if "features" in need else {}
                return DetectorOutput(images, self, maps, sets=sets)
            out.sets = sets
        return out

    def _sets(self, out: DetectorOutput) -> Predicted:
        m = self.detector
        scores = {s: self.ranked_by(x, out.quality.get(s)) for s, x in out.logits.items()}
        boxes, rows = best_cells(scores, self.decode(out), m.test_topk_candidates)
        if self._clips_first:
            boxes = clipped(boxes, out.images.image_sizes)
        limits = {"nms": m.test_nms_thresh, "limit": m.max_detections_per_image}
        return suppressed(boxes, rows, False, least=self.least_score, **limits)

    @property
    def _clips_first(self) -> bool:
        """Whether inference clips boxes to the image before it suppresses some, or after."""
        return getattr(self.detector, "score", "sqrt") == "product"

    def ranked_by(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """(..., K) scores of detections as they come out, with the quality; see `class_scores`."""
        scores = self.class_scores(logits, quality)
        if quality is None:
            return scores
        joint = with_quality(scores, quality)
        return joint.sqrt() if getattr(self.detector, "score", "sqrt") == "sqrt" else joint

    def assign(self, output: DetectorOutput, boxes: Tensor, classes: Tensor) -> List[Tensor]:
        """See the base class. Places stand for classes above K, which is background's."""
        first = self.detector.num_classes + 1
        places = torch.arange(first, first + boxes.shape[1], device=boxes.device)
        objects = [
            Instances(size, gt_boxes=Boxes(x), gt_classes=places)
            for x, size in zip(boxes, output.images.image_sizes, strict=True)
        ]
        return [(self.label(output, objects)[0] - first).clamp(min=-2)]

    def losses_on(
        self, output: DetectorOutput, features: Dict[int, Tensor], gt: List[Instances]
    ) -> Dict[str, Tensor]:
        """See the base class."""
        out = DetectorOutput(output.images, self, features)
        self._predict(out, [features[stride] for stride in self._strides], frozenset())
        self._supervise(out, gt)
        return out.losses

    def _predict(self, out: DetectorOutput, features: List[Tensor], need: FrozenSet[str]) -> None:
        m = self.detector
        if need & _TAPS:
            predictions, cls_taps, reg_taps = run_head_with_taps(m.head, features)
            out.cls_taps = dict(zip(self._strides, cls_taps, strict=True))
            out.reg_taps = dict(zip(self._strides, reg_taps, strict=True))
        else:
            predictions = m.head(features)
        for name, levels, dim in zip(self.predicted, predictions, self._dims(), strict=False):
            flat = [permute_to_N_HWA_K(x, dim) for x in levels]
            setattr(out, name, dict(zip(self._strides, flat, strict=True)))
        out.anchors = dict(zip(self._strides, m.anchor_generator(features), strict=True))
        self.derive(out, need)
        if "valid" in need:
            count = m.anchor_generator.num_anchors[0]
            out.valid = valid_cells(out.images, out.features, m.backbone.size_divisibility, count)

    def _dims(self) -> List[int]:
        return [self.detector.num_classes, 4, 1]

    @torch.no_grad()
    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """See the base class."""
        return logits.float().sigmoid()

    def _supervise(self, out: DetectorOutput, gt: List[Instances]) -> None:
        self._fill(out, gt, *self._assign(out, gt))

    def _fill(
        self, out: DetectorOutput, gt: List[Instances], labels: List[Tensor], boxes: List[Tensor]
    ) -> None:
        """Losses, labels and boxes, of what `_assign` gave."""
        m = self.detector
        anchors, logits, deltas = (list(x.values()) for x in (out.anchors, out.logits, out.deltas))
        more = [list(getattr(out, name).values()) for name in self.predicted[2:]]
        out.losses = m.losses(anchors, logits, labels, deltas, boxes, *filter(None, more))
        out.gt, (out.labels, out.matched_boxes) = gt, self._labels(labels, boxes)

    def label(self, output: DetectorOutput, gt: List[Instances]) -> Tuple[Tensor, Tensor]:
        """See the base class."""
        return self._labels(*self._assign(output, gt))

    def _assign(
        self, output: DetectorOutput, gt: List[Instances]
    ) -> Tuple[List[Tensor], List[Tensor]]:
        """Labels and matched boxes of each image, as the detector's losses take them."""
        return self.detector.label_anchors(list(output.anchors.values()), gt)

    def _labels(self, labels: List[Tensor], boxes: List[Tensor]) -> Tuple[Tensor, Tensor]:
        """The same as heads read them, (N, R) and (N, R, 4); of several assignments the first."""
        both = torch.stack(labels), torch.stack(boxes)
        return both if both[0].ndim == 2 else (both[0][..., 0], both[1][..., 0, :])

    def derive(self, output: DetectorOutput, need: FrozenSet[str]) -> None:
        """See the base class."""
        if "scores" in need:
            quality = output.quality or dict.fromkeys(output.logits)
            output.scores = {s: self.class_scores(x, quality[s]) for s, x in output.logits.items()}

    def decode(self, output: DetectorOutput) -> Dict[int, Tensor]:
        """See the base class."""
        transform, boxes = self.detector.box2box_transform, {}
        for stride, deltas in output.deltas.items():
            anchors = output.anchors[stride].tensor.repeat(len(deltas), 1)
            decoded = transform.apply_deltas(deltas.float().flatten(0, 1), anchors)
            boxes[stride] = decoded.view_as(deltas)
        return boxes

    def head_from(
        self, stride: int, block: int, cls_x: Tensor, reg_x: Tensor
    ) -> Tuple[Tensor, ...]:
        """See the base class."""
        head = self.detector.head
        cls_x, _ = run_tower(head.cls_subnet, cls_x, block)
        reg_x, _ = run_tower(head.bbox_subnet, reg_x, block)
        maps = predict_level(head, self._strides.index(stride), cls_x, reg_x)
        return tuple(permute_to_N_HWA_K(x, d) for x, d in zip(maps, self._dims(), strict=False))
