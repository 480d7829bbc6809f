"""ATSS: Bridging the Gap Between Anchor-based and Anchor-free Detection (arXiv 1912.02424)."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from fvcore.nn import sigmoid_focal_loss_jit
from torch import Tensor

from ..errors import check_choice
from ..losses import box_iou_loss, mean_over_ranks
from ..losses.box import side_distances
from ..losses.labels import foreground, positives_per_batch
from .base import AnchorPointDetector
from .common import add_common_config, common_arguments, head_arguments
from .head import ATSSHead


def add_atss_config(cfg: CfgNode) -> None:
    """Add the keys of MODEL.ATSS."""
    cfg.MODEL.ATSS = CfgNode()
    add_common_config(cfg.MODEL.ATSS)
    cfg.MODEL.ATSS.QUALITY = "centerness"  # what the quality logit predicts: centerness | iou
    cfg.MODEL.ATSS.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
    cfg.MODEL.ATSS.FOCAL_LOSS_ALPHA = 0.25
    cfg.MODEL.ATSS.FOCAL_LOSS_GAMMA = 2.0


def atss_arguments(cfg: CfgNode, node: CfgNode) -> Dict[str, Any]:
    """Arguments of `ATSS` from a config, without the head and what it predicts."""
    return {
        **common_arguments(cfg, node),
        "bbox_reg_weights": tuple(node.BBOX_REG_WEIGHTS),
        "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
        "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
        "bbox_loss_weight": node.BBOX_LOSS_WEIGHT,
    }


@META_ARCH_REGISTRY.register()
class ATSS(AnchorPointDetector):
    """Focal loss, GIoU loss and a quality logit on anchors assigned by ATSS.

    With quality "centerness" the box loss is weighted by centerness and divided by its sum. With
    "iou", the branch that PGD uses, the target is the IoU of the predicted box and the box loss is
    divided by the number of positives. Normalizers are means over ranks. Sizes are decoded by
    Detectron2's transform, whose clamp bounds large sizes only.
    """

    box_coding = "anchor_delta"
    rescore = True

    @configurable
    def __init__(
        self,
        *,
        quality: str = "centerness",
        bbox_reg_weights: Tuple[float, ...] = (10.0, 10.0, 5.0, 5.0),
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        bbox_loss_weight: float = 2.0,
        **kwargs: Any,
    ) -> None:
        """Build the detector.

        Args:
            quality: "centerness" or "iou".
            bbox_reg_weights: of the deltas, see `Box2BoxTransform`.
            focal_loss_alpha, focal_loss_gamma: of the class loss.
            bbox_loss_weight: of the GIoU loss.
            kwargs: see `AnchorPointDetector`.

        Raises:
            ValueError: another `quality`.
        """
        super().__init__(**kwargs)
        check_choice(quality, ("centerness", "iou"), "MODEL.ATSS.QUALITY")
        self.quality = quality
        self.box2box_transform = Box2BoxTransform(weights=bbox_reg_weights)
        self.focal_loss_alpha, self.focal_loss_gamma = focal_loss_alpha, focal_loss_gamma
        self.bbox_loss_weight = bbox_loss_weight
        self.prediction_dims = [self.num_classes, 4, 1]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Translate MODEL.ATSS."""
        node = cfg.MODEL.ATSS
        arguments = atss_arguments(cfg, node)
        shapes = [arguments["backbone"].output_shape()[name] for name in node.IN_FEATURES]
        return {
            **arguments,
            "head": ATSSHead(**head_arguments(node, shapes)),
            "quality": node.QUALITY,
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
        """See the base class. Returns "loss_cls", "loss_box_reg" and "loss_quality"."""
        maps = (torch.cat([*x], 1) for x in (logits, deltas, quality))
        all_logits, all_deltas, all_quality = maps
        assigned, priors = torch.stack(labels), Boxes.cat(anchors).tensor
        image, cell = foreground(assigned, self.num_classes).nonzero(as_tuple=True)
        target, prior = torch.stack(boxes)[image, cell], priors[cell]
        predicted = self.decode(all_deltas[image, cell], prior, None)
        if self.quality == "iou":
            goal = 1 - box_iou_loss(predicted.detach(), target, "iou")
            weight = torch.ones_like(goal)
        else:
            weight = goal = centerness(prior, target)
        sums = torch.stack([positives_per_batch(assigned, self.num_classes), weight.sum()])
        count, total = mean_over_ranks(sums).clamp(min=1).unbind()
        loss_quality = F.binary_cross_entropy_with_logits(
            all_quality[image, cell, 0].float(), goal, reduction="sum"
        )
        loss_box = (box_iou_loss(predicted, target) * weight).sum() / total
        return {
            "loss_cls": self._class_loss(all_logits.float(), assigned, image, cell).sum() / count,
            "loss_box_reg": self.bbox_loss_weight * loss_box,
            "loss_quality": loss_quality / count,
        }

    def _class_loss(self, logits: Tensor, labels: Tensor, image: Tensor, cell: Tensor) -> Tensor:
        """(N, R) focal loss of each anchor, 0 in batch padding."""
        target = torch.zeros_like(logits)
        target[image, cell, labels[image, cell]] = 1
        loss = sigmoid_focal_loss_jit(
            logits, target, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma
        )
        return loss.sum(-1) * (labels >= 0)

    def decode(self, deltas: Tensor, anchors: Tensor, strides: Optional[Tensor]) -> Tensor:
        """See the base class; strides are not used."""
        anchors = anchors.expand(*deltas.shape[:-1], 4)
        flat = self.box2box_transform.apply_deltas(deltas.reshape(-1, 4), anchors.reshape(-1, 4))
        return flat.view(deltas.shape)

    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """See the base class: sigmoid of the class logit alone."""
        return logits.float().sigmoid()


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) from anchor centers to box sides.

    Args:
        anchors, boxes: (n, 4) XYXY px, centers inside the boxes.

    Returns:
        Tensor: (n,) in (0, 1].
    """
    low, high = side_distances(anchors, boxes).chunk(2, -1)
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(-1).sqrt()
