"""CWD: Channel-wise Knowledge Distillation for Dense Prediction.

Shu et al., ICCV 2021 (arXiv 2011.13256).
"""

from typing import Dict

from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..losses import softened_kl
from ..losses.reduce import total
from .base import DISTILLATION_HEAD_REGISTRY
from .options import check_options
from .projection import FeatureHead


@DISTILLATION_HEAD_REGISTRY.register()
class CWD(FeatureHead):
    """KL divergence between the channels of two maps, each a distribution over its cells.

    T^2 / (N C) sum over images and channels of KL(softmax(t / T) || softmax(s / T)), softmax over
    the cells, summed over common strides. A constant added to a channel changes nothing. The
    published weight is 10. Ours: a 1x1 convolution on the student's side where the widths differ;
    mmrazor's code refuses such pairs.
    """

    default_weight = 10.0

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        temperature: float = 1.0,
        num_levels: int = 5,
    ) -> None:
        """Build projections where channel numbers differ.

        Args:
            student, teacher: the two detectors.
            temperature: T > 0.
            num_levels: number of common strides used, from the finest.

        Raises:
            ValueError: no common stride, or an option out of range.
        """
        super().__init__(student, teacher, num_levels)
        check_options("CWD", above_zero={"TEMPERATURE": temperature})
        self.temperature = temperature

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "feat"."""
        levels = self.levels(student, teacher).values()
        terms = (softened_kl(s.flatten(2), t.flatten(2), self.temperature) for s, t in levels)
        return {"feat": total(x.mean() for x in terms)}
