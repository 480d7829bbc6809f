"""RepPoints: Point Set Representation for Object Detection (ICCV 2019, arXiv 1904.11490)."""

from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from ..losses.box import centers
from ..losses.focal import class_focal_loss
from ..losses.labels import foreground, positives_per_batch
from ..losses.points import boxes_of_points
from ..losses.reduce import mean_over_ranks
from .cells import CellDetector
from .point_assigner import nearest_point_assign, overlap_assign
from .point_head import NUM_POINTS
from .reppoints_config import POINT_SCALE, reppoints_arguments

_BETA = 0.11  # of the smooth L1 loss, in units of POINT_SCALE strides


@META_ARCH_REGISTRY.register()
class RepPoints(CellDetector):
    """Boxes from nine points per cell, predicted twice, and classes at the first nine.

    The box of the first points is trained where a point is the nearest to an object, that of the
    refined ones and the classes where the first box overlaps one; see `point_assigner`. Labels have
    both stages side by side, (R, 2), the second stage first. Points are the corners of the cells.

    Ours: `low_quality` "overlapping" leaves out boxes that no first box overlaps, which take every
    cell of the image in mmdetection; `normalizer` "all_ranks" divides by means over ranks.
    """

    box_coding = "points"

    @configurable
    def __init__(
        self,
        *,
        transform: str = "moment",
        iou_thresholds: Tuple[float, float] = (0.4, 0.5),
        low_quality: str = "overlapping",
        normalizer: str = "all_ranks",
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        loss_weights: Tuple[float, float] = (1.0, 0.5),
        **kwargs: Any,
    ) -> None:
        """Build the detector.

        Args:
            transform: of points to a box, see `boxes_of_points`; "moment" has the parameter
                `moment_transfer` (2,), 0 at the start.
            iou_thresholds, low_quality: see `overlap_assign`.
            normalizer: numbers of positives that losses are divided by: "all_ranks", means over
                ranks, or "local".
            focal_loss_alpha, focal_loss_gamma: of the class loss.
            loss_weights: of the boxes of the refined and of the first points.
            kwargs: see `CellDetector`.
        """
        super().__init__(**kwargs)
        self.transform, self.low_quality, self.normalizer = transform, low_quality, normalizer
        self.iou_thresholds, self.loss_weights = iou_thresholds, loss_weights
        self.focal_loss_alpha, self.focal_loss_gamma = focal_loss_alpha, focal_loss_gamma
        self.moment_transfer = nn.Parameter(torch.zeros(2)) if transform == "moment" else None
        self.prediction_dims = [self.num_classes, 2 * NUM_POINTS, 2 * NUM_POINTS]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Translate MODEL.REPPOINTS; MODEL.ANCHOR_GENERATOR is not read."""
        return reppoints_arguments(cfg)

    def forward_training(
        self,
        images: ImageList,
        features: List[Tensor],
        predictions: List[List[Tensor]],
        gt_instances: List[Instances],
    ) -> Dict[str, Tensor]:
        """Label the cells by the first points and return the losses."""
        logits, refined, first = self._transpose_dense_predictions(
            predictions, self.prediction_dims
        )
        anchors = self.anchor_generator(features)
        labels, boxes = self.label_anchors(anchors, gt_instances, first)
        return self.losses(anchors, logits, labels, refined, boxes, first)

    @torch.no_grad()
    def label_anchors(
        self, anchors: List[Boxes], gt_instances: List[Instances], first: List[Tensor]
    ) -> Tuple[List[Tensor], List[Tensor]]:
        """Assign the cells of all images at once, in both stages.

        Args:
            anchors: by level.
            gt_instances: N `Instances` with gt_boxes (XYXY px), gt_classes and the image's size.
            first: (N, R_l, 18) first points by level.

        Returns:
            Tuple: per image labels (R, 2) of the second and the first stage, K for background and
            -1 in batch padding and between the thresholds, and matched boxes (R, 2, 4) XYXY px,
            zero for background.
        """
        levels, gt = [x.tensor for x in anchors], [x.gt_boxes.tensor for x in gt_instances]
        valid = self._valid_anchors(levels, [x.image_size for x in gt_instances])
        predicted = self.decode(torch.cat(first, 1), torch.cat(levels), self.level_strides(anchors))
        options = self.iou_thresholds, self.low_quality
        match = torch.stack(
            [
                overlap_assign(predicted, valid, gt, *options),
                nearest_point_assign(levels, valid, gt, self.strides, POINT_SCALE),
            ],
            -1,
        )
        return self._labels_and_boxes(match, valid[..., None] & (match >= 0), gt_instances)

    def losses(
        self,
        anchors: List[Boxes],
        logits: List[Tensor],
        labels: List[Tensor],
        refined: List[Tensor],
        boxes: List[Tensor],
        first: List[Tensor],
    ) -> Dict[str, Tensor]:
        """Losses of predictions by level, (N, R_l, D), given `label_anchors`.

        Returns:
            Dict: "loss_cls", "loss_pts_refine" and "loss_pts_init".
        """
        stages, targets = torch.stack(labels).unbind(-1), torch.stack(boxes).unbind(2)
        counts = torch.stack([positives_per_batch(x, self.num_classes) for x in stages])
        if self.normalizer == "all_ranks":
            counts = mean_over_ranks(counts)
        options = self.focal_loss_alpha, self.focal_loss_gamma
        loss_cls = class_focal_loss(torch.cat(logits, 1), stages[0], *options).sum()
        refine, init = (
            weight * self._box_loss(torch.cat(points, 1), stage, target, anchors)
            for weight, points, stage, target in zip(
                self.loss_weights, (refined, first), stages, targets, strict=True
            )
        )
        return {
            "loss_cls": loss_cls / counts[0],
            "loss_pts_refine": refine / counts[0],
            "loss_pts_init": init / counts[1],
        }

    def _box_loss(
        self, points: Tensor, labels: Tensor, boxes: Tensor, anchors: List[Boxes]
    ) -> Tensor:
        """Smooth L1 between sides in units of four strides, summed over sides and positives."""
        image, cell = foreground(labels, self.num_classes).nonzero(as_tuple=True)
        stride = self.level_strides(anchors)[cell]
        predicted = self.decode(points[image, cell], Boxes.cat(anchors).tensor[cell], stride)
        unit = POINT_SCALE * stride[:, None]
        return smooth_l1_loss(predicted / unit, boxes[image, cell] / unit, _BETA, "sum")

    def decode(self, deltas: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """See the base class: the box of the points, in strides from the anchor's center."""
        center = centers(anchors)
        boxes = boxes_of_points(deltas, self.transform, self.moment_transfer)
        return torch.cat([center, center], -1) + boxes * strides[..., None]

    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """See the base class: sigmoid of the class logit."""
        return logits.float().sigmoid()
