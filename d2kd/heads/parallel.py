"""Parallel distillation of the class, box and quality streams of a dense detector.

After the abstract of "Parallel-Circuitized distillation for dense object detection" (Displays 81,
2024, doi 10.1016/j.displa.2023.102587). Its text is not public: every formula and number here is
ours.
"""

from typing import Dict, Tuple

import torch
from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..losses import (
    binary_distillation_loss,
    box_iou_loss,
    mean_over_ranks,
    quality_focal_loss,
    softened_kl,
)
from ..losses.labels import foreground
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead, by_anchor
from .options import check_options


@DISTILLATION_HEAD_REGISTRY.register()
class Parallel(DistillationHead):
    """Branches in parallel: each has its own weight, none gates another, their losses add.

    At location i, V_i is the teacher's largest score where that is above `threshold`, 0 elsewhere
    and in batch padding, and Z = max(floor, mean over ranks of sum V).

        cls: sum_ij |p^t - p^s| BCE(p^s, p^t) / N, of raw class logits, N positives (as in BCKD)
        loc: sum_i V_i mean over sides KL(P^t || P^s) / Z, of the box distributions
        quality: sum_i V_i |q^t - q^s| BCE(q^s, q^t) / Z

    cls moves the class tower and its predictor only, loc the box tower and its predictor, quality
    these and the quality predictor. A teacher without a quality branch gives as q^t the IoU of its
    box with the matched object, on positives. A term of weight 0 is not computed. A branch of
    features is another head beside this one: DISTILL.HEADS ("Parallel", "PKD").

    `mode` "series" is the control: loc only where both agree on the class, quality only where
    moreover their boxes overlap by more than 0.5.
    """

    requires = frozenset({"logits", "scores", "distributions", "deltas", "quality", "anchors",
                          "valid", "labels", "matched_boxes"})  # fmt: skip
    optional = frozenset({"quality"})

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        cls_weight: float = 1.0,
        loc_weight: float = 4.0,
        quality_weight: float = 1.0,
        quality_target: str = "auto",
        threshold: float = 0.0,
        floor: float = 1.0,
        mode: str = "parallel",
        shared_weight: bool = False,
    ) -> None:
        """Set the options.

        Args:
            student, teacher: the two detectors.
            cls_weight, loc_weight, quality_weight: weights of the branches, >= 0.
            quality_target: "teacher", the quality it predicts, "iou", that of its box, or "auto",
                the first where there is one.
            threshold: see the class, in [0, 1).
            floor: see the class, >= 0.
            mode: "parallel" or "series".
            shared_weight: weigh and divide the class branch like the others, by V and Z.

        Raises:
            ValueError: an option out of range, or a quality that a detector does not predict.
        """
        super().__init__()
        check_options(
            "Parallel",
            at_least_zero={"THRESHOLD": threshold, "FLOOR": floor},
            terms={
                "CLS_WEIGHT": cls_weight, "LOC_WEIGHT": loc_weight,
                "QUALITY_WEIGHT": quality_weight,
            },
            choices={
                "QUALITY_TARGET": (quality_target, ("auto", "teacher", "iou")),
                "MODE": (mode, ("parallel", "series")),
            },
        )  # fmt: skip
        if quality_weight > 0:
            _check_quality(student, teacher, quality_target)
        self.num_classes = student.num_classes
        self.cls_weight, self.loc_weight = cls_weight, loc_weight
        self.quality_weight = quality_weight
        self.iou_target = quality_target == "iou" or not teacher.quality
        self.threshold, self.floor = threshold, floor
        self.series, self.shared_weight = mode == "series", shared_weight

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "cls", "loc" and "quality"."""
        valid = by_anchor(student.valid) & (student.labels >= 0)
        voltage, total = self._voltage(teacher, valid)
        losses = {}
        if self.cls_weight > 0:
            z_s, z_t = by_anchor(student.logits), by_anchor(teacher.logits)
            weight = voltage / total if self.shared_weight else valid.float() / student.num_pos
            losses["cls"] = self.cls_weight * binary_distillation_loss(z_s, z_t, weight)
        by_class, by_box = self._gates(student, teacher) if self.series else (1.0, 1.0)
        if self.loc_weight > 0:
            b_s, b_t = by_anchor(student.distributions), by_anchor(teacher.distributions)
            loss = softened_kl(b_s, b_t).mean(-1) * voltage * by_class
            losses["loc"] = self.loc_weight * loss.sum() / total
        if self.quality_weight > 0:
            target, on_target = self._quality_target(student, teacher)
            logit = by_anchor(student.quality).squeeze(-1)
            loss = quality_focal_loss(logit, target, 1.0) * voltage * on_target * by_box
            losses["quality"] = self.quality_weight * loss.sum() / total
        return losses

    def _voltage(self, teacher: DetectorOutput, valid: Tensor) -> Tuple[Tensor, Tensor]:
        """V (N, R) and Z."""
        score = by_anchor(teacher.scores).amax(-1)
        voltage = score * (valid & (score > self.threshold))
        return voltage, mean_over_ranks(voltage.sum()).clamp(min=max(self.floor, 1e-12))

    @torch.no_grad()
    def _quality_target(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Tuple[Tensor, Tensor]:
        """The quality (N, R) in [0, 1], and where it is known."""
        if not self.iou_target:
            quality = by_anchor(teacher.quality).squeeze(-1).float().sigmoid()
            return quality, torch.ones_like(quality)
        boxes = by_anchor(teacher.adapter.decode(teacher))
        iou = 1 - box_iou_loss(boxes, student.matched_boxes, "iou")
        positive = foreground(student.labels, self.num_classes)
        return iou * positive, positive.float()

    @torch.no_grad()
    def _gates(self, student: DetectorOutput, teacher: DetectorOutput) -> Tuple[Tensor, Tensor]:
        """(N, R) in {0, 1}: classes agree; classes and boxes agree."""
        class_s, class_t = (by_anchor(x.logits).argmax(-1) for x in (student, teacher))
        boxes_s, boxes_t = (by_anchor(x.adapter.decode(x)) for x in (student, teacher))
        agree = class_s == class_t
        overlap = box_iou_loss(boxes_s, boxes_t, "iou") < 0.5
        return agree.float(), (agree & overlap).float()


def _check_quality(student: DetectorSpec, teacher: DetectorSpec, target: str) -> None:
    if not student.quality:
        raise ValueError(
            f"DISTILL.HEADS: Parallel's quality branch needs a student that predicts quality; "
            f"{student.name} here does not. Set MODEL.GFL.QUALITY to SDGQP or DGQP, or "
            "DISTILL.Parallel.QUALITY_WEIGHT to 0.0."
        )
    if target == "teacher" and not teacher.quality:
        raise ValueError(
            f"DISTILL.Parallel.QUALITY_TARGET is teacher, but the teacher {teacher.name} predicts "
            "no quality. Use a teacher with MODEL.GFL.QUALITY SDGQP or DGQP, or set it to iou, the "
            "overlap of the teacher's box with the matched object."
        )
