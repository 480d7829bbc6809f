"""FitNets: Hints for Thin Deep Nets.

Romero et al., ICLR 2015 (arXiv 1412.6550), on FPN maps.
"""

from typing import Dict

import torch.nn.functional as F
from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..losses.precision import at_least_float
from ..losses.reduce import total
from .base import DISTILLATION_HEAD_REGISTRY
from .projection import FeatureHead


@DISTILLATION_HEAD_REGISTRY.register()
class FitNets(FeatureHead):
    """Mean squared error after a 1x1 convolution of the student, summed over common strides.

    The baseline of feature distillation: its mean counts every cell and channel alike. The paper
    trains the hint first; here, as detectors use it, it is a term beside the supervised losses.
    """

    def __init__(
        self, student: DetectorSpec, teacher: DetectorSpec, *, num_levels: int = 5
    ) -> None:
        """Build a 1x1 convolution for every level.

        Args:
            student, teacher: the two detectors.
            num_levels: number of common strides used, from the finest.

        Raises:
            ValueError: no common stride, or no level.
        """
        super().__init__(student, teacher, num_levels, project="all")

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "feat"."""
        levels = self.levels(student, teacher).values()
        return {"feat": total(F.mse_loss(at_least_float(s), at_least_float(t)) for s, t in levels)}
