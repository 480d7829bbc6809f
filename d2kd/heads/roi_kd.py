"""Response distillation of the box classifier of two-stage detectors.

KD: Hinton et al., 2015 (arXiv 1503.02531). DKD: Zhao et al., CVPR 2022 (arXiv 2203.08679). DIST:
Huang et al., NeurIPS 2022 (arXiv 2205.10536).
"""

from typing import Dict

import torch
from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..adapters.output import RoIOutput
from ..losses import decoupled_kl, mean_over_ranks, relation_losses, softened_kl
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead
from .options import check_options


@DISTILLATION_HEAD_REGISTRY.register()
class RoIKD(DistillationHead):
    """Class logits of both detectors on the student's sampled proposals; background is a class.

    `loss` "KD" is the softened KL divergence, "DKD" splits it into label and other classes, "DIST"
    compares correlations, of a region's classes and of a class's regions. Box deltas are left to
    the supervised loss. See `softened_kl`, `decoupled_kl`, `relation_losses`.

    Ours: KD and DKD are divided by the number of regions, a mean over ranks; DIST's correlation of
    a class is taken over each rank's regions, as released. A cascade's stages, each with its own
    proposals, are averaged.
    """

    requires = frozenset({"roi"})

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        loss: str = "DKD",
        temperature: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.25,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
    ) -> None:
        """Set the options.

        Args:
            student, teacher: the two detectors.
            loss: "KD", "DKD" or "DIST".
            temperature: T > 0.
            alpha, beta: DKD's weights of the label and of the other classes, >= 0.
            inter_weight, intra_weight: DIST's weights, >= 0.

        Raises:
            ValueError: an option out of range.
        """
        super().__init__()
        dkd = {"ALPHA": alpha, "BETA": beta}
        dist = {"INTER_WEIGHT": inter_weight, "INTRA_WEIGHT": intra_weight}
        check_options(
            "RoIKD",
            at_least_zero={**dkd, **dist},
            terms={"DKD": dkd, "DIST": dist}.get(loss, {}),
            above_zero={"TEMPERATURE": temperature},
            choices={"LOSS": (loss, ("KD", "DKD", "DIST"))},
        )  # fmt: skip
        self.loss, self.temperature = loss, temperature
        self.alpha, self.beta = alpha, beta
        self.inter_weight, self.intra_weight = inter_weight, intra_weight

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "cls"."""
        stages = zip(student.roi, teacher.roi, strict=True)
        return {"cls": torch.stack([self._stage(s, t.logits) for s, t in stages]).mean()}

    def _stage(self, student: RoIOutput, teacher: Tensor) -> Tensor:
        if self.loss == "DIST":
            inter, intra = relation_losses(student.logits, teacher, self.temperature)
            return self.inter_weight * inter + self.intra_weight * intra
        if self.loss == "DKD":
            labels = torch.cat([x.gt_classes for x in student.proposals])
            weights = self.alpha, self.beta, self.temperature
            loss = decoupled_kl(student.logits, teacher, labels, *weights)
        else:
            loss = softened_kl(student.logits, teacher, self.temperature)
        return loss.sum() / mean_over_ranks(loss.new_full((), len(loss))).clamp(min=1)
