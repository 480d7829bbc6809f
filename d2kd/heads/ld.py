"""LD: Localization Distillation for Dense Object Detection.

Zheng et al., CVPR 2022 (arXiv 2102.12252).
"""

from typing import Dict

import torch
from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..losses import mean_over_ranks, softened_kl
from ..losses.labels import foreground
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead, at_anchors, by_anchor
from .options import check_options
from .region import valuable_region


@DISTILLATION_HEAD_REGISTRY.register()
class LD(DistillationHead):
    """KL divergence of the box distributions on positives and around them, and of the classes.

    Terms: "loc" on positives, weighted by the student's largest class score; "vlr" on the valuable
    localization region, weighted by IoU; "cls", a softmax over classes on positives, averaged on
    each level. A term of weight 0 is not computed.

    `norm` "official_sum" is the released code: a mean over bins, then a sum over the anchors of
    this rank, which grows with the images per GPU (published with 2 or 3; weights 0.25, 0.25 and
    10, temperature 10). "weight_sum", ours and the default, sums over bins and divides by the sum
    of the positives' weights, a mean over ranks, so that the batch size does not matter.
    """

    requires = frozenset({"logits", "distributions", "anchors", "valid", "labels", "gt"})

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        loc_weight: float = 4.0,
        vlr_weight: float = 4.0,
        cls_weight: float = 0.0,
        temperature: float = 1.0,
        cls_temperature: float = 2.0,
        norm: str = "weight_sum",
        overlap: str = "diou",
        gamma: float = 0.25,
    ) -> None:
        """Set the options.

        Args:
            student, teacher: the two detectors.
            loc_weight, vlr_weight, cls_weight: weights of the three terms, >= 0.
            temperature: of the box distributions, > 0.
            cls_temperature: of the classes, > 0.
            norm: "weight_sum" or "official_sum".
            overlap: of the valuable region, "diou" as in the paper or "iof" as released.
            gamma: lower end of the valuable region, as a share of the assignment threshold.

        Raises:
            ValueError: an option out of range.
        """
        super().__init__()
        check_options(
            "LD",
            terms={
                "LOC_WEIGHT": loc_weight, "VLR_WEIGHT": vlr_weight, "CLS_WEIGHT": cls_weight,
            },
            above_zero={"TEMPERATURE": temperature, "CLS_TEMPERATURE": cls_temperature},
            choices={
                "NORM": (norm, ("weight_sum", "official_sum")),
                "OVERLAP": (overlap, ("diou", "iof")),
            },
        )  # fmt: skip
        self.num_classes, self.num_bins = student.num_classes, student.reg_max + 1
        self.loc_weight, self.vlr_weight, self.cls_weight = loc_weight, vlr_weight, cls_weight
        self.temperature, self.cls_temperature = temperature, cls_temperature
        self.norm, self.overlap, self.gamma = norm, overlap, gamma

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class."""
        image, cell = foreground(student.labels, self.num_classes).nonzero(as_tuple=True)
        z_s = at_anchors(student.logits, image, cell)
        quality = at_anchors(student.quality, image, cell) if student.quality else None
        weight = student.adapter.class_scores(z_s, quality).amax(-1)
        total = self._normalizer(weight)
        losses = {}
        if self.loc_weight > 0:
            loss = self._side_loss(student, teacher, image, cell)
            losses["loc"] = self.loc_weight * (loss * weight).sum() / total
        if self.vlr_weight > 0:
            losses["vlr"] = self.vlr_weight * self._region_loss(student, teacher) / total
        if self.cls_weight > 0:
            z_t = at_anchors(teacher.logits, image, cell)
            losses["cls"] = self.cls_weight * self._class_loss(student, z_s, z_t, cell)
        return losses

    def _normalizer(self, weight: Tensor) -> Tensor:
        if self.norm == "official_sum":
            return weight.new_ones(())
        return mean_over_ranks(weight.sum()).clamp(min=1e-3)

    def _side_loss(
        self, student: DetectorOutput, teacher: DetectorOutput, image: Tensor, cell: Tensor
    ) -> Tensor:
        """(n,) divergence of the chosen anchors, a mean over sides."""
        b_s, b_t = (at_anchors(x.distributions, image, cell) for x in (student, teacher))
        loss = softened_kl(b_s, b_t, self.temperature).mean(-1)
        return loss / self.num_bins if self.norm == "official_sum" else loss

    def _region_loss(self, student: DetectorOutput, teacher: DetectorOutput) -> Tensor:
        """The released code divides by 16 what it divides by 4 on positives."""
        anchors = [level.tensor for level in student.anchors.values()]
        boxes = [x.gt_boxes.tensor for x in student.gt]
        valid = by_anchor(student.valid)
        region = valuable_region(anchors, valid, boxes, gamma=self.gamma, overlap=self.overlap)
        image, cell = region.nonzero(as_tuple=True)
        loss = self._side_loss(student, teacher, image, cell)
        return (loss * region[image, cell]).sum() / 4

    def _class_loss(
        self, student: DetectorOutput, z_s: Tensor, z_t: Tensor, cell: Tensor
    ) -> Tensor:
        levels = enumerate(student.anchors.values())
        level_of = torch.cat([cell.new_full((len(level),), i) for i, level in levels])[cell]
        counts = z_s.new_zeros(len(student.anchors), dtype=torch.float32)
        counts.index_add_(0, level_of, torch.ones_like(level_of, dtype=torch.float32))
        if self.norm == "weight_sum":
            counts = mean_over_ranks(counts)
        loss = softened_kl(z_s, z_t, self.cls_temperature) / self.num_classes
        return (loss / counts[level_of]).sum()
