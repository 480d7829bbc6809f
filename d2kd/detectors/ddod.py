"""DDOD: Disentangle Your Dense Object Detector (ACM MM 2021, arXiv 2107.02963)."""

from functools import partial
from typing import Any, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from ..errors import check_choice
from ..losses import box_iou_loss
from ..losses.labels import foreground
from ..losses.level_factors import level_factors
from .assigner import image_of_box
from .atss import ATSS, atss_arguments
from .common import add_common_config, head_arguments
from .ddod_head import DDODHead
from .level_counts import count_positives, level_of_cells
from .quality_assigner import RULES, Objects, Predictions, quality_assign


def add_ddod_config(cfg: CfgNode) -> None:
    """Add the keys of MODEL.DDOD."""
    cfg.MODEL.DDOD = CfgNode()
    add_common_config(cfg.MODEL.DDOD)
    cfg.MODEL.DDOD.DEFORM = True  # the first convolution of each tower is deformable
    cfg.MODEL.DDOD.ASSIGNER = "atss"  # atss, threshold of near candidates | topk, as PGD has
    cfg.MODEL.DDOD.CLS_EXPONENT = 0.8  # share of the IoU in the quality that assigns classes
    cfg.MODEL.DDOD.REG_EXPONENT = 0.5  # the same for boxes; PGD's topk has 0.6
    cfg.MODEL.DDOD.COUNTERS = "separate"  # of positives by level: separate | shared, as mmdet has
    cfg.MODEL.DDOD.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
    cfg.MODEL.DDOD.FOCAL_LOSS_ALPHA = 0.25
    cfg.MODEL.DDOD.FOCAL_LOSS_GAMMA = 2.0


@META_ARCH_REGISTRY.register()
class DDOD(ATSS):
    """ATSS with an IoU branch, an assignment for each branch and weights of the levels.

    Both assignments follow from what the detector predicts, see `quality_assign`; the one for
    boxes is that of the IoU branch too. Levels that have had few positives count up to twice as
    much as those that have had many, see `level_factors`. Losses are divided by sums over images of
    max(positives, 1), means over ranks.

    Ours: positives are counted over all ranks, in the training state and for both branches apart;
    the released code counts on each rank and from 0 when it resumes. mmdetection adds both
    branches to one list, which is `counters` "shared".

    Attributes:
        level_counts: (2, L) float64, positives of each level so far, for classes and for boxes;
            absent before the first step.
    """

    @configurable
    def __init__(
        self,
        *,
        assigner: str = "atss",
        exponents: Tuple[float, float] = (0.8, 0.5),
        counters: str = "separate",
        **kwargs: Any,
    ) -> None:
        """Build the detector.

        Args:
            assigner: "atss" or "topk", see `quality_assign`.
            exponents: share of the IoU in the quality, in [0, 1], for classes and for boxes.
            counters: "separate" or "shared".
            kwargs: see `ATSS`; `assigner_topk` is the number of candidates per box, and for "atss"
                per level.

        Raises:
            ValueError: an unknown choice.
        """
        super().__init__(quality="iou", **kwargs)
        check_choice(assigner, RULES, "MODEL.DDOD.ASSIGNER")
        check_choice(counters, ("separate", "shared"), "MODEL.DDOD.COUNTERS")
        self.assigner, self.exponents, self.counters = assigner, exponents, counters

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Translate MODEL.DDOD."""
        node = cfg.MODEL.DDOD
        arguments = atss_arguments(cfg, node)
        shapes = [arguments["backbone"].output_shape()[name] for name in node.IN_FEATURES]
        return {
            **arguments,
            "head": DDODHead(deform=node.DEFORM, **head_arguments(node, shapes)),
            "assigner": node.ASSIGNER,
            "exponents": (node.CLS_EXPONENT, node.REG_EXPONENT),
            "counters": node.COUNTERS,
        }

    def forward_training(
        self,
        images: ImageList,
        features: List[Tensor],
        predictions: List[List[Tensor]],
        gt_instances: List[Instances],
    ) -> Dict[str, Tensor]:
        """Label the anchors by the predictions and return the losses."""
        logits, deltas, quality = self._transpose_dense_predictions(
            predictions, self.prediction_dims
        )
        anchors = self.anchor_generator(features)
        labels, boxes = self.label_anchors(anchors, gt_instances, logits, deltas)
        return self.losses(anchors, logits, labels, deltas, boxes, quality)

    @torch.no_grad()
    def label_anchors(  # type: ignore[override]
        self,
        anchors: List[Boxes],
        gt_instances: List[Instances],
        logits: List[Tensor],
        deltas: List[Tensor],
    ) -> Tuple[List[Tensor], List[Tensor]]:
        """Assign the anchors of all images at once, which takes the predictions too.

        Args:
            anchors: by level.
            gt_instances: N `Instances` with gt_boxes (XYXY px), gt_classes and the image's size.
            logits, deltas: (N, R_l, K) and (N, R_l, 4) by level.

        Returns:
            Tuple: per image labels (R, 2), for classes and for boxes, K for background and -1 in
            batch padding, and matched boxes (R, 2, 4) XYXY px, zero for background.
        """
        levels, gt = [x.tensor for x in anchors], [x.gt_boxes.tensor for x in gt_instances]
        valid = self._valid_anchors(levels, [x.image_size for x in gt_instances])
        classes = torch.cat([x.gt_classes for x in gt_instances])
        decode = partial(self.decode, strides=None)
        predicted = Predictions(levels, valid, torch.cat(logits, 1), torch.cat(deltas, 1), decode)
        objects = Objects(torch.cat(gt), classes, image_of_box(gt))
        options = self.exponents, self.assigner_topk, self.assigner
        match = torch.stack(quality_assign(predicted, objects, *options), -1)
        return self._labels_and_boxes(match, valid[..., None], gt_instances)

    def losses(
        self,
        anchors: List[Boxes],
        logits: List[Tensor],
        labels: List[Tensor],
        deltas: List[Tensor],
        boxes: List[Tensor],
        quality: Sequence[Tensor] = (),
    ) -> Dict[str, Tensor]:
        """See the base class. Returns "loss_cls", "loss_box_reg" and "loss_quality"."""
        assigned, priors = torch.stack(labels), Boxes.cat(anchors).tensor
        positive = foreground(assigned, self.num_classes)
        (count, total), factors = self._balance(positive, [len(x) for x in anchors])
        image, cell = positive[..., 0].nonzero(as_tuple=True)
        all_logits = torch.cat(logits, 1).float()
        loss_cls = self._class_loss(all_logits, assigned[..., 0], image, cell) * factors[0]
        image, cell = positive[..., 1].nonzero(as_tuple=True)
        target, weight = torch.stack(boxes)[image, cell, 1], factors[1, cell]
        predicted = self.decode(torch.cat(deltas, 1)[image, cell], priors[cell], None)
        loss_box = box_iou_loss(predicted, target) * weight
        goal = 1 - box_iou_loss(predicted.detach(), target, "iou")
        loss_quality = F.binary_cross_entropy_with_logits(
            torch.cat([*quality], 1)[image, cell, 0].float(), goal, weight, reduction="sum"
        )
        return {
            "loss_cls": loss_cls.sum() / count,
            "loss_box_reg": self.bbox_loss_weight * loss_box.sum() / total,
            "loss_quality": loss_quality / total,
        }

    @torch.no_grad()
    def _balance(self, positive: Tensor, cells: List[int]) -> Tuple[Tensor, Tensor]:
        """Count the positives (N, R, 2) of both branches; `cells` has R_l by level.

        Returns:
            Tuple: normalizers (2,) and the factor of each anchor (2, R).
        """
        norms, counts = count_positives(positive, cells)
        before = getattr(self, "level_counts", torch.zeros_like(counts)).to(counts)
        if self.counters == "shared":
            before, counts = before[-1:], counts.cumsum(0)
        self.level_counts = before + counts
        factors = level_factors(self.level_counts).float()
        return norms, factors[:, level_of_cells(cells, factors.device)]
