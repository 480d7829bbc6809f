"""Adapter of GeneralizedRCNN: Faster, Mask and Cascade R-CNN, and any other for its features."""

from typing import ClassVar, Dict, FrozenSet, List, Optional

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from ..detectors import Predicted
from .base import DETECTOR_ADAPTER_REGISTRY, DetectorAdapter
from .output import DenseMaps, DetectorOutput, DetectorSpec, RoIOutput
from .region_sets import assign_regions, decode_regions, region_sets
from .regions import Masks, Regions, as_proposals, build_regions
from .replay import replayable
from .sets import of_labels


@DETECTOR_ADAPTER_REGISTRY.register()
class GeneralizedRCNNAdapter(DetectorAdapter):
    """Two-stage detectors.

    RPN maps are provided for the stock `RPN`, RoI outputs for the stock `StandardROIHeads` and
    `CascadeROIHeads`, mask logits for their stock mask branch; with other parts, or when no head
    asks for them, the stock modules run unchanged. Keypoint heads always do.
    """

    detector: GeneralizedRCNN
    replays = (GeneralizedRCNN.forward, GeneralizedRCNN.preprocess_image)
    conditions: ClassVar[Dict[str, str]] = {
        "rpn": "MODEL.PROPOSAL_GENERATOR.NAME RPN",
        "roi": "MODEL.ROI_HEADS.NAME StandardROIHeads or CascadeROIHeads, with MODEL.ROI_BOX_HEAD."
        "TRAIN_ON_PRED_BOXES False and MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE False",
        "masks": "MODEL.MASK_ON True and Detectron2's own mask head, with "
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES False",
    }

    def __init__(self, detector: GeneralizedRCNN) -> None:
        """See the base class."""
        super().__init__(detector)
        shapes = detector.backbone.output_shape()
        names = _feature_names(detector)
        self._names = dict(sorted((shapes[name].stride, name) for name in names))
        heads = detector.roi_heads
        self._regions = build_regions(heads)
        self._masks = Masks(heads) if self._regions and Masks.replayable(heads) else None
        there = {
            "rpn": replayable(detector.proposal_generator, (RPN.forward,)),
            "roi": self._regions is not None and self._regions.exclusive,
            "masks": self._masks is not None,
        }
        self.provides = (
            self.provides | {"proposals", "sets"} | {name for name, x in there.items() if x}
        )

    def spec(self) -> DetectorSpec:
        """See the base class."""
        shapes = self.detector.backbone.output_shape()
        features = {stride: shapes[name] for stride, name in self._names.items()}
        return DetectorSpec(
            name=type(self.detector).__name__,
            features={s: ShapeSpec(channels=f.channels, stride=s) for s, f in features.items()},
            num_classes=self.detector.roi_heads.num_classes,
            box_coding="anchor_delta",
            num_stages=self._regions.num_stages if self._regions else 0,
        )

    def forward(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """See the base class. A teacher's regions are filled by `add_regions`."""
        pyramid = self.detector.backbone(images.tensor)
        out = DetectorOutput(images, self, {s: pyramid[name] for s, name in self._names.items()})
        if gt is None and "sets" in need:
            out.sets = self._sets(images, pyramid)
            if not need - {"sets", "gt"}:  # no maps are kept
                return DetectorOutput(images, self, {}, sets=out.sets)
        if gt is None and "rpn" not in need:
            return out
        if "rpn" in need:
            proposals = self._forward_rpn(out, pyramid, gt)
        else:
            proposals, out.losses = self.detector.proposal_generator(images, pyramid, gt)
        if gt is not None:
            out.gt = gt
            roi_losses = self._forward_roi(out, pyramid, proposals, need)
            out.losses = {**roi_losses, **out.losses}
        return out

    def _sets(self, images: ImageList, pyramid: dict) -> Predicted:
        proposals, _ = self.detector.proposal_generator(images, pyramid, None)
        if self._regions is not None:
            return region_sets(self._regions, pyramid, proposals, self.least_score)
        heads = self.detector.roi_heads  # of which the detections alone are known
        found, _ = heads(images, pyramid, proposals, None)
        boxes = [x.pred_boxes.tensor for x in found]
        scores, classes = [x.scores for x in found], [x.pred_classes for x in found]
        return of_labels(boxes, scores, classes, heads.num_classes)

    def losses_on(
        self, output: DetectorOutput, features: Dict[int, Tensor], gt: List[Instances]
    ) -> Dict[str, Tensor]:
        """See the base class. The stock modules run unchanged."""
        m, pyramid = self.detector, {name: features[stride] for stride, name in self._names.items()}
        proposals, losses = m.proposal_generator(output.images, pyramid, gt)
        return {**m.roi_heads(output.images, pyramid, proposals, gt)[1], **losses}

    def _forward_rpn(
        self, out: DetectorOutput, pyramid: dict, gt: Optional[List[Instances]]
    ) -> List[Instances]:
        rpn = self.detector.proposal_generator
        features = [pyramid[name] for name in rpn.in_features]
        anchors = rpn.anchor_generator(features)
        logits, deltas = rpn.rpn_head(features)
        logits = [permute_to_N_HWA_K(x, 1) for x in logits]
        deltas = [permute_to_N_HWA_K(x, rpn.anchor_generator.box_dim) for x in deltas]
        shapes = self.detector.backbone.output_shape()
        strides = [shapes[name].stride for name in rpn.in_features]
        out.rpn = DenseMaps(
            logits=dict(zip(strides, logits, strict=True)),
            deltas=dict(zip(strides, deltas, strict=True)),
        )
        out.anchors = dict(zip(strides, anchors, strict=True))
        if gt is None:
            return []
        logits = [x.squeeze(2) for x in logits]
        labels, boxes = rpn.label_and_sample_anchors(anchors, gt)
        out.losses = rpn.losses(anchors, logits, labels, deltas, boxes)
        out.rpn.labels = torch.stack(labels)
        return rpn.predict_proposals(anchors, logits, deltas, out.images.image_sizes)

    def _forward_roi(
        self, out: DetectorOutput, pyramid: dict, proposals: List[Instances], need: FrozenSet[str]
    ) -> dict:
        heads = self.detector.roi_heads
        regions, masks = self._regions, self._masks
        if regions is None or not need & {"roi", "masks"}:
            out.proposals, losses = heads(out.images, pyramid, proposals, out.gt)
            return losses
        out.proposals = heads.label_and_sample_proposals(proposals, out.gt)
        out.roi, losses = regions.forward(pyramid, out.proposals, out.gt)
        if masks is not None and "masks" in need:
            out.masks, found = masks.forward(pyramid, out.proposals)
            losses.update(found)
        else:
            losses.update(heads._forward_mask(pyramid, out.proposals))
        losses.update(heads._forward_keypoint(pyramid, out.proposals))
        return losses

    def add_regions(
        self, output: DetectorOutput, student: DetectorOutput, need: FrozenSet[str]
    ) -> None:
        """See the base class.

        Stage k of the student is answered by stage k of the teacher, or by its last one if it has
        fewer; a teacher's further stages are not asked (ours).
        """
        pyramid = self._pyramid(output)
        if self._regions is not None and "roi" in need:
            last = self._regions.num_stages - 1
            output.roi = [
                self._regions.stage(pyramid, as_proposals(stage.proposals), min(k, last))
                for k, stage in enumerate(student.roi)
            ]
        if self._masks is not None and "masks" in need:
            output.masks = self._masks.logits(pyramid, as_proposals(student.masks.proposals))

    @property
    def _replayed(self) -> Regions:
        """The RoI heads of a student with "roi"."""
        assert self._regions is not None
        return self._regions

    def _pyramid(self, output: DetectorOutput) -> dict:
        maps = output.whole or output.features
        return {name: maps[stride] for stride, name in self._names.items()}

    def assign(self, output: DetectorOutput, boxes: Tensor, classes: Tensor) -> List[Tensor]:
        """See the base class."""
        return assign_regions(self._replayed, output.roi, boxes)

    def decode_regions(self, stage: RoIOutput, index: int) -> Tensor:
        """See the base class."""
        return decode_regions(self._replayed, stage, index)

    def regions_at(self, output: DetectorOutput, boxes: Tensor) -> RoIOutput:
        """See the base class."""
        sizes = output.images.image_sizes
        pairs = zip(sizes, boxes, strict=True)
        proposals = [Instances(size, proposal_boxes=Boxes(x)) for size, x in pairs]
        return self._replayed.stage(self._pyramid(output), proposals, 0)


def _feature_names(detector: GeneralizedRCNN) -> List[str]:
    generator, heads = detector.proposal_generator, detector.roi_heads
    names = set(getattr(generator, "in_features", ())) | set(getattr(heads, "in_features", ()))
    return list(names or detector.backbone.output_shape())
