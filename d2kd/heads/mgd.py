"""MGD: Masked Generative Distillation.

Yang et al., ECCV 2022 (arXiv 2205.01529).
"""

from typing import Dict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..losses.precision import at_least_float
from ..losses.reduce import total
from .base import DISTILLATION_HEAD_REGISTRY
from .options import check_options, filled_in
from .projection import FeatureHead, preset_of

_PUBLISHED = {"one_stage": (2e-5, 0.65), "two_stage": (5e-7, 0.45)}


@DISTILLATION_HEAD_REGISTRY.register()
class MGD(FeatureHead):
    """The teacher's map, generated from the student's with random cells left out.

    alpha / N * ||G(k * s) - t||^2 summed over common strides, where k is 0 with probability lambda
    (`mask_ratio`) in each cell, in all channels at once, and G is 3x3 convolution, ReLU, 3x3
    convolution. Published (alpha, lambda): (2e-5, 0.65) for one-stage students, (5e-7, 0.45) for
    two-stage ones, with gradients clipped at norm 35. k comes from torch's generator of the device,
    so a seeded run repeats; it differs between ranks as their seeds do.

    Ours: `preset` "auto", two_stage for a student without a dense head or with a common stride of
    4 px; a 1x1 convolution, as in the released code, only where the widths differ.
    """

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        preset: str = "auto",
        alpha: float = -1.0,
        mask_ratio: float = -1.0,
        num_levels: int = 5,
    ) -> None:
        """Build the generators.

        Args:
            student, teacher: the two detectors.
            preset: "auto", "one_stage" or "two_stage".
            alpha: weight of the sum of squares, >= 0; -1 for the preset's.
            mask_ratio: lambda in [0, 1); -1 for the preset's.
            num_levels: number of common strides used, from the finest.

        Raises:
            ValueError: no common stride, or an option out of range.
        """
        super().__init__(student, teacher, num_levels)
        check_options("MGD", choices={"PRESET": (preset, ("auto", *_PUBLISHED))})
        published = _PUBLISHED[preset_of(preset, student, teacher, {})]
        self.alpha, self.mask_ratio = filled_in((alpha, mask_ratio), published)
        ratio = {"MASK_RATIO": self.mask_ratio}
        check_options("MGD", terms={"ALPHA": self.alpha}, below_one=ratio)
        self.generate = nn.ModuleDict({str(s): _generator(c) for s, (_, c) in self.widths.items()})

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "feat"."""
        terms = []
        for stride, (s, t) in self.levels(student, teacher).items():
            keep = torch.rand_like(s[:, :1], dtype=torch.float32) >= self.mask_ratio
            generated = self.generate[str(stride)](s * keep)
            squares = F.mse_loss(at_least_float(generated), at_least_float(t), reduction="sum")
            terms.append(self.alpha * squares / len(s))
        return {"feat": total(terms)}


def _generator(channels: int) -> nn.Sequential:
    layers = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
    return nn.Sequential(next(layers), nn.ReLU(), next(layers))
