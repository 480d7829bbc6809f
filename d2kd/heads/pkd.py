"""PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient.

Cao et al., NeurIPS 2022 (arXiv 2207.02039).
"""

from typing import Dict

from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..losses import pearson_loss
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead, common_strides


@DISTILLATION_HEAD_REGISTRY.register()
class PKD(DistillationHead):
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
            ValueError: no common stride.
        """
        super().__init__()
        self.strides = common_strides("PKD", student, teacher)[:num_levels]
        self.eps, self.all_ranks = eps, all_ranks
        widths = {
            s: (student.features[s].channels, teacher.features[s].channels) for s in self.strides
        }
        self.project = nn.ModuleDict(
            {str(s): nn.Conv2d(a, b, 1) for s, (a, b) in widths.items() if a != b}
        )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "feat"."""
        total = 0.0
        for s in self.strides:
            x = student.features[s]
            x = self.project[str(s)](x) if str(s) in self.project else x
            total = total + pearson_loss(x, teacher.features[s], self.eps, self.all_ranks)
        return {"feat": total}
