"""GFL (NeurIPS 2020, arXiv 2006.04388) and GFLv2 (CVPR 2021, arXiv 2011.12885)."""

from typing import Any, Dict, List, Optional, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes
from torch import Tensor

from ..errors import check_choice
from ..losses import (
    box_iou_loss,
    distribution_focal_loss,
    integral,
    joint_quality_focal_loss,
    mean_over_ranks,
    quality_focal_loss,
)
from ..losses.box import boxes_around, side_distances
from ..losses.labels import foreground, positives_per_batch
from .base import AnchorPointDetector
from .common import add_common_config, common_arguments, head_arguments
from .head import GFLHead
from .quality import QUALITY_PREDICTOR_REGISTRY
from .soft_quality import add_sdgqp_config


def add_gfl_config(cfg: CfgNode) -> None:
    """Add the keys of MODEL.GFL."""
    cfg.MODEL.GFL = CfgNode()
    add_common_config(cfg.MODEL.GFL)
    cfg.MODEL.GFL.QUALITY = "none"  # none (GFL) | DGQP (GFLv2) | SDGQP
    add_sdgqp_config(cfg.MODEL.GFL)
    cfg.MODEL.GFL.REG_MAX = 16  # last bin of the box distributions, in strides
    cfg.MODEL.GFL.QFL_BETA = 2.0
    cfg.MODEL.GFL.DFL_LOSS_WEIGHT = 0.25


@META_ARCH_REGISTRY.register()
class GFL(AnchorPointDetector):
    """Quality focal loss, GIoU loss and distribution focal loss on anchors assigned by ATSS.

    The class target is the IoU of the predicted box. Box and distribution losses are weighted by
    the largest class score u (detached) and divided by max(1, mean over ranks of sum u); the class
    loss by the number of positives, a mean over ranks too. With a quality predictor (GFLv2) the
    score is the product of class and quality probability.
    """

    box_coding = "distribution"

    @configurable
    def __init__(
        self,
        *,
        reg_max: int = 16,
        qfl_beta: float = 2.0,
        bbox_loss_weight: float = 2.0,
        dfl_loss_weight: float = 0.25,
        **kwargs: Any,
    ) -> None:
        """Build the detector.

        Args:
            reg_max: last bin of the distributions, in strides; that of the head.
            qfl_beta: exponent of the quality focal loss.
            bbox_loss_weight, dfl_loss_weight: of GIoU and distribution focal loss.
            kwargs: see `AnchorPointDetector`.
        """
        super().__init__(**kwargs)
        self.reg_max = reg_max
        self.qfl_beta = qfl_beta
        self.bbox_loss_weight, self.dfl_loss_weight = bbox_loss_weight, dfl_loss_weight
        predictor = self.head.reg_conf
        self.quality = type(predictor).__name__ if predictor is not None else ""
        self.prediction_dims = [self.num_classes, 4 * (reg_max + 1)]
        self.prediction_dims += [1] if self.quality else []

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Translate MODEL.GFL.

        Raises:
            ValueError: unknown QUALITY, or REG_MAX below 3.
        """
        node = cfg.MODEL.GFL
        _check_config(node)
        arguments = common_arguments(cfg, node)
        shapes = [arguments["backbone"].output_shape()[name] for name in node.IN_FEATURES]
        predictor = None if node.QUALITY == "none" else node.QUALITY
        options = {key.lower(): value for key, value in node.get(node.QUALITY, {}).items()}
        head = GFLHead(
            reg_max=node.REG_MAX,
            quality=predictor,
            quality_options=options,
            **head_arguments(node, shapes),
        )
        return {
            **arguments,
            "head": head,
            "reg_max": node.REG_MAX,
            "qfl_beta": node.QFL_BETA,
            "bbox_loss_weight": node.BBOX_LOSS_WEIGHT,
            "dfl_loss_weight": node.DFL_LOSS_WEIGHT,
        }

    def losses(
        self,
        anchors: List[Boxes],
        logits: List[Tensor],
        labels: List[Tensor],
        deltas: List[Tensor],
        boxes: List[Tensor],
        quality: Sequence[Tensor] = (),
    ) -> Dict[str, Tensor]:
        """See the base class. Returns "loss_cls", "loss_box_reg" and "loss_dfl"."""
        all_logits = torch.cat(logits, 1)
        all_quality = torch.cat([*quality], 1) if quality else None
        assigned, priors = torch.stack(labels), Boxes.cat(anchors).tensor
        image, cell = foreground(assigned, self.num_classes).nonzero(as_tuple=True)
        target, prior = torch.stack(boxes)[image, cell], priors[cell]
        stride = self.level_strides(anchors)[cell]
        positive_deltas = torch.cat(deltas, 1)[image, cell]
        predicted = self.decode(positive_deltas, prior, stride)
        with torch.no_grad():
            positive_quality = None if all_quality is None else all_quality[image, cell]
            weight = self.class_scores(all_logits[image, cell], positive_quality).amax(-1)
            goal = torch.zeros_like(all_logits, dtype=torch.float32)
            goal[image, cell, assigned[image, cell]] = 1 - box_iou_loss(predicted, target, "iou")
            sums = torch.stack([positives_per_batch(assigned, self.num_classes), weight.sum()])
            count, total = mean_over_ranks(sums).clamp(min=1).unbind()
        distances = side_distances(prior, target) / stride[:, None]
        loss_dfl = distribution_focal_loss(positive_deltas, distances).mean(-1)
        loss_box = box_iou_loss(predicted, target)
        return {
            "loss_cls": self._class_loss(all_logits, all_quality, goal, assigned) / count,
            "loss_box_reg": self.bbox_loss_weight * (loss_box * weight).sum() / total,
            "loss_dfl": self.dfl_loss_weight * (loss_dfl * weight).sum() / total,
        }

    def _class_loss(
        self, logits: Tensor, quality: Optional[Tensor], goal: Tensor, labels: Tensor
    ) -> Tensor:
        if quality is None:
            loss = quality_focal_loss(logits, goal, self.qfl_beta)
        else:
            loss = joint_quality_focal_loss(logits, quality, goal, self.qfl_beta)
        return (loss.sum(-1) * (labels >= 0)).sum()

    def decode(self, deltas: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """See the base class: the anchor's center, plus and minus expected distances."""
        return boxes_around(anchors, integral(deltas) * strides[..., None])

    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """See the base class: sigmoid of the class logit, times that of the quality if any."""
        scores = logits.float().sigmoid()
        return scores if quality is None else scores * quality.float().sigmoid()


def _check_config(node: CfgNode) -> None:
    known = ["none", *(name for name, _ in QUALITY_PREDICTOR_REGISTRY)]
    check_choice(node.QUALITY, known, "MODEL.GFL.QUALITY")
    if node.REG_MAX < 3:
        raise ValueError(f"MODEL.GFL.REG_MAX must be at least 3, not {node.REG_MAX}.")
