"""CrossKD: Cross-Head Knowledge Distillation for Object Detection.

Wang et al., CVPR 2024 (arXiv 2306.11369).
"""

import copy
from typing import Dict, List, Tuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..losses import (
    align_channels,
    binary_distillation_loss,
    box_iou_loss,
    mean_over_ranks,
    softened_kl,
)
from ..losses.box import box_area
from ..losses.labels import foreground
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead, by_anchor
from .options import check_options, filled_in

_PUBLISHED = {"distribution": (1.0, 4.0), "anchor_delta": (1.0, 1.0), "distance": (0.4, 0.75)}
_BLOCK = {"distribution": 3, "anchor_delta": 3, "distance": 2}
_PUBLISHED["points"], _BLOCK["points"] = _PUBLISHED["anchor_delta"], _BLOCK["anchor_delta"]  # ours


@DISTILLATION_HEAD_REGISTRY.register()
class CrossKD(DistillationHead):
    """The student's early tower blocks, finished by the teacher's head, must predict as it does.

    The student's tap after block `block`, before its activation, takes the teacher's statistics per
    channel and runs through the teacher's remaining blocks and predictors. Gradient reaches the
    student's trunk, FPN and tower blocks up to `block`; the blocks after it and the predictors
    learn from the ground truth alone, the teacher never.

    Terms: "cls", binary cross-entropy weighted by the gap (that of BCKD); "reg", of distributions a
    KL divergence, of anchor deltas and points 1 - GIoU, of distances -ln IoU, weighted by the
    teacher's largest class probability; "quality" on positives, where boxes are anchor deltas and
    both detectors predict centerness or IoU.

    Ours: normalizers and channel statistics are taken over all ranks (`all_ranks`); distances are
    normalized like deltas, by the number of positives in place of the sum of centerness, and count
    neither in batch padding nor where the teacher's box has no area; points (RepPoints) have the
    values of anchor deltas, and the teacher's head samples the student's taps of both towers at the
    first points that it predicts from the student's box tower; `project` puts a 1x1 convolution on
    taps whose widths differ.
    """

    requires = frozenset({"cls_taps", "reg_taps", "features", "logits", "deltas", "anchors",
                          "valid", "labels"})  # fmt: skip

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        cls_weight: float = -1.0,
        reg_weight: float = -1.0,
        quality_weight: float = 1.0,
        block: int = -1,
        project: bool = False,
        all_ranks: bool = True,
    ) -> None:
        """Set the options and check that the towers fit.

        Args:
            student, teacher: the two detectors.
            cls_weight, reg_weight: weights; -1 for the published ones: 1 and 4 for distributions, 1
                and 1 for anchor deltas and points, 0.4 and 0.75 for distances.
            quality_weight: weight of the quality term, >= 0; published for ATSS.
            block: tower blocks of the student in use; -1 for the published 3, 2 for distances, or
                for all of shorter towers (ours).
            project: 1x1 convolutions where tower widths differ.
            all_ranks: see above.

        Raises:
            ValueError: box codings or tower widths differ, or a tower has fewer blocks.
        """
        super().__init__()
        _check_coding(student, teacher)
        coding = teacher.box_coding
        last = min(_BLOCK[coding], student.num_convs, teacher.num_convs)
        self.cls_weight, self.reg_weight, self.block = filled_in(
            (cls_weight, reg_weight, block), (*_PUBLISHED[coding], last)
        )
        check_options("CrossKD", {"QUALITY_WEIGHT": quality_weight, "BLOCK": self.block})
        _check_towers(student, teacher, self.block, project)
        self.coding, self.all_ranks, self.num_classes = coding, all_ranks, student.num_classes
        same = student.quality and student.quality == teacher.quality
        self.quality_weight = quality_weight if same and coding == "anchor_delta" else 0.0
        check_options("CrossKD", terms={
            "CLS_WEIGHT": self.cls_weight, "REG_WEIGHT": self.reg_weight,
            "QUALITY_WEIGHT": self.quality_weight,
        })  # fmt: skip
        widths = _tap_width(student, self.block), _tap_width(teacher, self.block)
        self.project = nn.ModuleList(
            nn.Conv2d(*widths, 1) for _ in range(2 if widths[0] != widths[1] else 0)
        )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class."""
        crossed = self._cross(student, teacher)
        z_x, z_t = by_anchor(crossed.logits), by_anchor(teacher.logits).float()
        weight = (by_anchor(student.valid) & (student.labels >= 0)).float()
        confidence = weight * z_t.amax(-1).sigmoid()
        loss = binary_distillation_loss(z_x, z_t, weight)
        losses = {
            "cls": self.cls_weight * loss / student.num_pos,
            "reg": self.reg_weight * self._box_loss(crossed, teacher, confidence, student.num_pos),
        }
        if self.quality_weight > 0:
            positive = foreground(student.labels, self.num_classes)
            q_x, q_t = (by_anchor(x.quality).float().squeeze(-1) for x in (crossed, teacher))
            loss = F.binary_cross_entropy_with_logits(q_x, q_t.sigmoid(), reduction="none")
            losses["quality"] = self.quality_weight * (loss * positive).sum() / student.num_pos
        return losses

    def _cross(self, student: DetectorOutput, teacher: DetectorOutput) -> DetectorOutput:
        """The teacher's output, with predictions from the student's taps."""
        levels: Dict[int, Tuple[Tensor, ...]] = {}
        for stride in teacher.logits:
            cls_x, reg_x = (
                self._tap(side, _taps(student, side, stride), _taps(teacher, side, stride))
                for side in range(2)
            )
            levels[stride] = teacher.adapter.head_from(stride, self.block, cls_x, reg_x)
        kinds = range(len(next(iter(levels.values()))))
        logits, deltas, *quality = ({s: level[i] for s, level in levels.items()} for i in kinds)
        crossed = copy.copy(teacher)
        crossed.logits, crossed.deltas = logits, deltas
        if quality:
            crossed.quality = quality[0]
        return crossed

    def _tap(self, side: int, student: List[Tensor], teacher: List[Tensor]) -> Tensor:
        x = student[self.block]
        if self.project:
            x = self.project[side](x)
        return align_channels(x, teacher[self.block], all_ranks=self.all_ranks)

    def _box_loss(
        self, crossed: DetectorOutput, teacher: DetectorOutput, weight: Tensor, num_pos: Tensor
    ) -> Tensor:
        if self.coding == "distribution":
            b_x, b_t = (by_anchor(x.deltas).unflatten(-1, (4, -1)) for x in (crossed, teacher))
            loss, total = softened_kl(b_x, b_t).mean(-1), weight.sum()
            total = mean_over_ranks(total) if self.all_ranks else total
            return (loss * weight).sum() / total.clamp(min=1e-6)
        boxes, goal = (by_anchor(x.adapter.decode(x)) for x in (crossed, teacher))
        if self.coding in ("anchor_delta", "points"):
            return (box_iou_loss(boxes, goal) * weight).sum() / num_pos
        iou = 1 - box_iou_loss(boxes, goal, "iou")
        weight = weight * (box_area(goal[..., :2], goal[..., 2:]) > 0)
        return -(iou.clamp(min=1e-6).log() * weight).sum() / num_pos


def _taps(output: DetectorOutput, side: int, stride: int) -> List[Tensor]:
    """The FPN map and the pre-activation of every block of the class (0) or box (1) tower."""
    taps = (output.cls_taps, output.reg_taps)[side]
    return [output.features[stride], *taps[stride]]


def _tap_width(detector: DetectorSpec, block: int) -> int:
    """Channels of the tower, or of the FPN where no block is run."""
    return detector.tower_width if block else next(iter(detector.features.values())).channels


def _check_coding(student: DetectorSpec, teacher: DetectorSpec) -> None:
    if (student.box_coding, student.reg_max) != (teacher.box_coding, teacher.reg_max):
        raise ValueError(
            f"DISTILL.HEADS: CrossKD finishes the student's towers with the teacher's head, so "
            f"boxes must be coded alike; the student {student.name} has {student.box_coding} "
            f"(bins to {student.reg_max}), the teacher {teacher.name} {teacher.box_coding} (bins "
            f"to {teacher.reg_max}). Use a teacher of the student's kind, or BCKD."
        )


def _check_towers(student: DetectorSpec, teacher: DetectorSpec, block: int, project: bool) -> None:
    if block > min(student.num_convs, teacher.num_convs):
        raise ValueError(
            f"DISTILL.CrossKD.BLOCK is {block}, but the student's towers have {student.num_convs} "
            f"blocks and the teacher's {teacher.num_convs}. Set it to at most the smaller number, "
            "or give both at least as many NUM_CONVS."
        )
    widths = [_tap_width(x, block) for x in (student, teacher)]
    if widths[0] != widths[1] and not project:
        raise ValueError(
            f"DISTILL.HEADS: CrossKD needs towers of equal width; the student has "
            f"{widths[0]} channels and the teacher {widths[1]}. Set "
            "MODEL.FPN.OUT_CHANNELS alike, or DISTILL.CrossKD.PROJECT True (ours, not published)."
        )
