"""What ATSS and GFL share: assignment by ATSS, and a training step with it."""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from .assigner import atss_assign
from .cells import CellDetector


class AnchorPointDetector(CellDetector):
    """A dense detector with one anchor per cell, assigned by ATSS.

    A subclass defines `losses` and what `CellDetector` asks for; `box_coding` is "anchor_delta" or
    "distribution".
    """

    def __init__(self, *, assigner_topk: int = 9, **kwargs: Any) -> None:
        """Store the parts.

        Args:
            assigner_topk: candidates per level and box.
            kwargs: see `CellDetector`.
        """
        super().__init__(**kwargs)
        self.assigner_topk = assigner_topk

    def forward_training(
        self,
        images: ImageList,
        features: List[Tensor],
        predictions: List[List[Tensor]],
        gt_instances: List[Instances],
    ) -> Dict[str, Tensor]:
        """Label the anchors and return the losses."""
        logits, deltas, *quality = self._transpose_dense_predictions(
            predictions, self.prediction_dims
        )
        anchors = self.anchor_generator(features)
        labels, boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, labels, deltas, boxes, *quality)

    @torch.no_grad()
    def label_anchors(
        self, anchors: List[Boxes], gt_instances: List[Instances]
    ) -> Tuple[List[Tensor], List[Tensor]]:
        """Assign the anchors of all images at once.

        Args:
            anchors: by level.
            gt_instances: N `Instances` with gt_boxes (XYXY px), gt_classes and the image's size.

        Returns:
            Tuple: per image labels (R,), K for background and -1 in batch padding, and matched
            boxes (R, 4) XYXY px, zero for background.
        """
        levels = [level.tensor for level in anchors]
        valid = self._valid_anchors(levels, [x.image_size for x in gt_instances])
        objects = [x.gt_boxes.tensor for x in gt_instances]
        match = atss_assign(levels, valid, objects, self.assigner_topk)
        return self._labels_and_boxes(match, valid, gt_instances)

    def losses(
        self,
        anchors: List[Boxes],
        logits: List[Tensor],
        labels: List[Tensor],
        deltas: List[Tensor],
        boxes: List[Tensor],
        quality: Sequence[Tensor] = (),
    ) -> Dict[str, Tensor]:
        """Losses of predictions by level, (N, R_l, D), given `label_anchors`; quality optional."""
        raise NotImplementedError
