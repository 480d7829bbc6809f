"""MasKD: Masked Distillation with Receptive Tokens.

Huang et al., ICLR 2023 (arXiv 2205.14589). Values are those of the released code.
"""

from pathlib import Path
from typing import Dict, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..adapters import DetectorAdapter, DetectorOutput, DetectorSpec
from ..errors import ConfigError
from ..losses.maskd import (
    cell_weights,
    weighted_mask,
    weighted_mse,
)
from ..losses.reduce import total
from .base import DISTILLATION_HEAD_REGISTRY
from .options import check_options, filled_in
from .projection import FeatureHead, preset_of
from .receptive_tokens import ConstantTokens, Tokens
from .tokens_file import KEY, LEARN, TokensFile, read_tokens

_NUMBER = 6  # of tokens a level, where no file is named


class _Values(NamedTuple):
    """Weight of the loss, and steps in which the teacher's masks count alone."""

    weight: float
    warmup: int


PRESETS = {
    "two_stage": _Values(1.0, 7330),
    "one_stage": _Values(7.0, 7000),
    "fcos": _Values(10.0, 5000),
}
_OF_CODING = {"distance": "fcos", "points": "fcos"}


@DISTILLATION_HEAD_REGISTRY.register()
class MasKD(FeatureHead):
    """Squared error of FPN maps under masks that tokens learnt on the teacher, summed over strides.

    Stage 1 learns the tokens E and the weights p of their masks on the frozen teacher
    (`teachers.token_learner`, `d2kd train TEACHER --tokens`). Here they are constant: with
    m = sigmoid(E t), from step `warmup` on times sigmoid(E a(s)) without gradient, the loss of a
    level is sum_k p_k [sum over cells of m_k^2 mean_c (a(s) - t)^2] / sum over cells of m_k, mean
    over images; a is a trained 1x1 convolution.

    Tokens and the count of steps are in the state that is saved beside the student, so a resumed
    run goes on with the tokens that it began with. Batch padding takes part, as released.

    Presets, as (weight, warm-up in steps of a 2x schedule): two_stage (1, 7330), one_stage
    (7, 7000), fcos (10, 5000). The released configs of all but FCOS add a further loss on
    predictions, which this is without; name another method beside it.

    Ours: one map of weights for each cell instead of T masked copies of both maps, which is exact;
    the floor of 1e-6 cells under a mask's area; a count of steps that survives a resume; tokens
    without gradient, which the released code holds by a learning rate of 0.
    """

    steps: Tensor

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        tokens: str = "",
        preset: str = "auto",
        warmup: int = -1,
        weight_mask: bool = True,
        num_levels: int = 5,
    ) -> None:
        """Build 1x1 convolutions and take the tokens from their file.

        Args:
            student, teacher: the two detectors.
            tokens: file of stage 1, or the folder of its run; a training needs one.
            preset: "auto" is two_stage for a student without a dense head or with a common stride
                of 4 px, fcos for one that predicts distances or points, else one_stage; or one
                of these.
            warmup: steps until the student's masks count too, >= 0; -1 for the preset's;
                `d2kd train` fits that to runs of less than 180,000 steps.
            weight_mask: weigh masks by p, as published; otherwise their mean.
            num_levels: number of common strides used, from the finest.

        Raises:
            ValueError: no common stride, an option out of range, or tokens of other levels.
        """
        super().__init__(student, teacher, num_levels, "all")
        check_options("MasKD", choices={"PRESET": (preset, ("auto", *PRESETS))})
        values = PRESETS[preset_of(preset, student, teacher, _OF_CODING)]
        self.weight, self.warmup = filled_in(_Values(-1, warmup), values)
        check_options("MasKD", at_least_zero={"WARMUP": self.warmup})
        self.weight_mask, self._made = weight_mask, TokensFile({}, "", "")
        if tokens:
            self._made = read_tokens(Path(tokens))
            self._made.check_levels(teacher)
        self.tokens = nn.ModuleDict({str(s): ConstantTokens(self._learnt(s)) for s in self.strides})
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def _learnt(self, stride: int) -> Tokens:
        """Without a file zeros, whose masks are one half everywhere."""
        channels = self.widths[stride][1]
        shapes = (_NUMBER, channels), (_NUMBER, channels, 3, 3), (_NUMBER,)
        return self._made.levels.get(stride, Tokens(*map(torch.zeros, shapes)))

    def check_teacher(self, teacher: DetectorAdapter) -> None:
        """See the base class."""
        if not self._made.levels:
            raise ConfigError(
                f"{KEY} is empty: {LEARN.format('the teacher')}, and type {KEY} FOLDER."
            )
        self._made.check_weights(teacher)

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "feat"."""
        levels = self.levels(student, teacher).items()
        loss = total(weighted_mse(y, t, self._cell_weights(s, y, t)) for s, (y, t) in levels)
        if self.training:
            self.steps.add_(1)
        return {"feat": self.weight * loss}

    @torch.no_grad()
    def _cell_weights(self, stride: int, y: Tensor, t: Tensor) -> Tensor:
        """R of a level, (N, H, W)."""
        level = self._tokens(stride)
        ours = torch.where(self.steps >= self.warmup, level.masks(y), 1.0)
        return cell_weights(level.masks(t) * ours, self._mask_weights(stride, t))

    def _mask_weights(self, stride: int, t: Tensor) -> Tensor:
        return self._tokens(stride).weights(t, alike=not self.weight_mask)

    def _tokens(self, stride: int) -> ConstantTokens:
        return cast(ConstantTokens, self.tokens[str(stride)])

    @torch.no_grad()
    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class: "difference", and "mask (teacher)", sum_k p_k m_k in [0, 1]."""
        features = {s: teacher.features[s] for s in self.strides}
        masks = {
            s: weighted_mask(self._tokens(s).masks(t), self._mask_weights(s, t))
            for s, t in features.items()
        }
        return {**super().maps(student, teacher), "mask (teacher)": masks}
