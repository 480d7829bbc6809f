"""BCKD: Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection.

Yang et al., ICCV 2023 (arXiv 2308.14286).
"""

from typing import Dict

import torch
from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..losses import binary_distillation_loss, box_iou_loss
from ..losses.divergence import class_gap
from ..losses.labels import foreground
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead, by_anchor
from .options import check_options


@DISTILLATION_HEAD_REGISTRY.register()
class BCKD(DistillationHead):
    """Binary-classification and IoU-based localization distillation on all valid anchors.

    Both terms are divided by the number of positives, reduced over ranks. Anchors in the batch
    padding and ignored ones (label -1) weigh 0. The class weight is attached on the student's
    side, the localization weight is not, as in the released code, which has a GFL head only.
    Decoding RetinaNet's and ATSS's deltas and FCOS's distances follows the paper's general form.
    Ours: GFLv2's class logits are distilled before they meet the quality, and centerness, IoU and
    quality branches are left to the supervised losses.
    """

    requires = frozenset({"logits", "deltas", "anchors", "valid", "labels"})

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        cls_weight: float = 1.0,
        loc_weight: float = 4.0,
        beta: float = 1.0,
        iou: str = "giou",
        gate: str = "always",
    ) -> None:
        """Set the options.

        Args:
            student, teacher: the two detectors.
            cls_weight: weight of the classification term, >= 0.
            loc_weight: weight of the localization term, >= 0.
            beta: exponent of the class weight.
            iou: "giou" as released or "iou" as in the paper.
            gate: "always", the paper's formula, or "official", where a level without a positive
                anchor on this rank gives nothing.

        Raises:
            ValueError: a negative weight or an unknown choice.
        """
        super().__init__()
        check_options(
            "BCKD",
            terms={"CLS_WEIGHT": cls_weight, "LOC_WEIGHT": loc_weight},
            choices={"IOU": (iou, ("giou", "iou")), "GATE": (gate, ("always", "official"))},
        )
        self.num_classes = student.num_classes
        self.cls_weight, self.loc_weight = cls_weight, loc_weight
        self.beta, self.iou, self.gate = beta, iou, gate

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "cls" and "loc"; a term of weight 0 is not computed."""
        weight = self._location_weight(student)
        z_s, z_t = by_anchor(student.logits), by_anchor(teacher.logits)
        losses = {}
        if self.cls_weight > 0:
            loss = binary_distillation_loss(z_s, z_t, weight, self.beta)
            losses["cls"] = self.cls_weight * loss / student.num_pos
        if self.loc_weight > 0:
            boxes_s = by_anchor(student.adapter.decode(student))
            boxes_t = by_anchor(teacher.adapter.decode(teacher))
            loss = box_iou_loss(boxes_s, boxes_t, self.iou) * (weight * class_gap(z_s, z_t))
            losses["loc"] = self.loc_weight * loss.sum() / student.num_pos
        return losses

    def _location_weight(self, student: DetectorOutput) -> Tensor:
        weights = []
        for stride, labels in student.labels_by_stride().items():
            weight = (student.valid[stride] & (labels >= 0)).float()
            if self.gate == "official":
                weight = weight * foreground(labels, self.num_classes).any()
            weights.append(weight)
        return torch.cat(weights, dim=1)
