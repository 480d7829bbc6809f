"""What dense detectors of d2kd share: anchors, valid cells and inference."""

from typing import Any, ClassVar, Dict, List, Optional, Tuple

import torch
from detectron2.modeling import Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..losses.box import centers
from .inference import detect, select, with_quality


class CellDetector(DenseDetector):
    """A dense detector with one prediction per cell, which an anchor places.

    A subclass defines `forward_training`, `decode` and `class_scores`, and sets

        prediction_dims: channels of class logits, box prediction and, if any, what a third
            predictor gives: the quality logit, or RepPoints' first points,
        box_coding: see `DetectorSpec`,
        quality: what the quality logit predicts, "" without one,
        rescore: detections are selected by class score and then multiplied by the quality,
        reg_max: last bin of box distributions, 0 without them.
    """

    box_coding: ClassVar[str]
    rescore: ClassVar[bool] = False
    prediction_dims: List[int]
    quality: str = ""
    reg_max: int = 0

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: List[str],
        anchor_generator: DefaultAnchorGenerator,
        num_classes: int,
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: List[float],
        pixel_std: List[float],
    ) -> None:
        """Store the parts.

        Args:
            backbone, head, head_in_features, pixel_mean, pixel_std: see `DenseDetector`.
            anchor_generator: makes one anchor per cell.
            num_classes: K.
            test_score_thresh: class score in [0, 1] that a detection must exceed.
            test_topk_candidates: detections kept per level before NMS.
            test_nms_thresh: IoU above which NMS suppresses.
            max_detections_per_image: detections kept after NMS.

        Raises:
            ValueError: more than one anchor per cell.
        """
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        if set(anchor_generator.num_anchors) != {1}:
            raise ValueError(
                f"{type(self).__name__} has one anchor per cell, but MODEL.ANCHOR_GENERATOR gives "
                f"{anchor_generator.num_anchors}. Set MODEL.ANCHOR_GENERATOR.SIZES to [[64], [128],"
                " [256], [512], [1024]], one for each of IN_FEATURES, and "
                "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS to [[1.0]]."
            )
        self.anchor_generator = anchor_generator
        self.num_classes = num_classes
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in head_in_features]

    def _valid_anchors(self, levels: List[Tensor], sizes: List[Tuple[int, int]]) -> Tensor:
        """(N, R) bool: cells that begin inside the image, padded to the size divisibility."""
        step = max(self.backbone.size_divisibility, 1)
        limits = torch.tensor([[-(-w // step) * step, -(-h // step) * step] for h, w in sizes])
        offset = self.anchor_generator.offset
        corners = [
            centers(x) - offset * stride for x, stride in zip(levels, self.strides, strict=True)
        ]
        limits = limits.to(levels[0].device, non_blocking=True)
        return (torch.cat(corners) < limits[:, None] - 1e-3).all(-1)

    def _labels_and_boxes(
        self, match: Tensor, counted: Tensor, gt_instances: List[Instances]
    ) -> Tuple[List[Tensor], List[Tensor]]:
        """What a match of cells to boxes makes of them.

        Args:
            match: (N, R) or, of B assignments, (N, R, B) long, row of the boxes of all images, G
                for background.
            counted: bool, broadcast to it; False where the label is -1.
            gt_instances: N `Instances` with gt_boxes (XYXY px) and gt_classes, G boxes in all.

        Returns:
            Tuple: per image labels (R,) or (R, B), K for background and -1 where not counted, and
            matched boxes (R, 4) or (R, B, 4) XYXY px, zero for background.
        """
        objects = [x.gt_boxes.tensor for x in gt_instances]
        background = match.new_full((1,), self.num_classes)
        classes = torch.cat([*(x.gt_classes for x in gt_instances), background])
        boxes = torch.cat([*objects, objects[0].new_zeros(1, 4)])
        return list(classes[match].masked_fill(~counted, -1)), list(boxes[match])

    def level_strides(self, anchors: List[Boxes]) -> Tensor:
        """(R,) stride of each anchor, px."""
        levels = zip(anchors, self.strides, strict=True)
        return torch.cat([x.tensor.new_full((len(x),), stride) for x, stride in levels])

    def decode(self, deltas: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """Boxes (..., 4) XYXY px, float32, of predictions (..., D).

        Args:
            deltas: (..., D) box predictions.
            anchors: (..., 4) XYXY px, broadcast to the leading shape of `deltas`.
            strides: (...) px, broadcast likewise.
        """
        raise NotImplementedError

    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """(..., K) in [0, 1], float32: the score that detections are first selected by."""
        raise NotImplementedError

    def forward_inference(
        self, images: ImageList, features: List[Tensor], predictions: List[List[Tensor]]
    ) -> List[Instances]:
        """Detections of each image: select, decode, clip, NMS."""
        predictions = self._transpose_dense_predictions(predictions, self.prediction_dims)
        limits = self.test_nms_thresh, self.max_detections_per_image
        places = self._places(features)
        return detect(self._detect_level, predictions, places, images.image_sizes, *limits)

    def _places(self, features: List[Tensor]) -> List[Dict[str, Any]]:
        """Anchors, (HWA, 4) XYXY px, and stride, px, of each level."""
        levels = zip(self.anchor_generator(features), self.strides, strict=True)
        return [{"anchors": boxes.tensor, "stride": stride} for boxes, stride in levels]

    def _detect_level(
        self,
        logits: Tensor,
        deltas: Tensor,
        quality: Optional[Tensor] = None,
        *,
        anchors: Tensor,
        stride: int,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        scores = self.class_scores(logits, quality)
        limits = self.test_score_thresh, self.test_topk_candidates
        scores, cells, classes = select(scores, *limits)
        boxes = self.decode(deltas[cells], anchors[cells], scores.new_tensor(stride))
        if self.rescore and quality is not None:
            scores = with_quality(scores, quality[cells, 0])
        return boxes, scores, classes
