"""PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient.

Cao et al., NeurIPS 2022 (arXiv 2207.02039).
"""

from typing import Dict

from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..losses import pearson_loss
from ..losses.reduce import total
from .base import DISTILLATION_HEAD_REGISTRY
from .projection import FeatureHead


@DISTILLATION_HEAD_REGISTRY.register()
class PKD(FeatureHead):
    """Pearson correlation of FPN features, summed over the finest common strides.

    The published weight is 6 (10 from a RetinaNet X101 to a RetinaNet R50). Ours: a 1x1
    convolution on the student's side where the widths differ; the paper asks for equal widths.
    Batch padding takes part, as in the released code.
    """

    default_weight = 6.0

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        num_levels: int = 4,
        eps: float = 1e-6,
        all_ranks: bool = True,
    ) -> None:
        """Build projections where channel numbers differ.

        Args:
            student, teacher: the two detectors.
            num_levels: number of common strides used, from the finest.
            eps, all_ranks: see `pearson_loss`. ALL_RANKS False is the released behaviour.

        Raises:
            ValueError: no common stride, or no level.
        """
        super().__init__(student, teacher, num_levels)
        self.eps, self.all_ranks = eps, all_ranks

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "feat"."""
        levels = self.levels(student, teacher).values()
        return {"feat": total(pearson_loss(s, t, self.eps, self.all_ranks) for s, t in levels)}
