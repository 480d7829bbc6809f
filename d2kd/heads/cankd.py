"""CanKD: Cross-Attention-based Non-local operation for Feature-based Knowledge Distillation.

Sun and Ohyama, WACV 2026 (arXiv 2511.21503). Values are those of the released code.
"""

from typing import Dict

import torch
from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..losses.feature import instance_norm, instance_norm_loss
from ..losses.precision import at_least_float, no_autocast
from ..losses.reduce import total
from .base import DISTILLATION_HEAD_REGISTRY
from .non_local import NORMS, non_local_product, normalized, pooled
from .options import check_options
from .projection import FeatureHead, difference_map

_NORMS = (*NORMS, "none")


class CrossNonLocal(nn.Module):
    """z = s + scale * norm(W y), where y gathers the teacher's values by the student's queries.

    y_p = 1/m sum_j (theta(s)_p . phi(t)_j) g(t)_j over m pooled cells j of the teacher's map, with
    1x1 convolutions theta, phi, g to half of the channels and no softmax. With the sum taken first
    that is a 1x1 convolution of the student's map, by weights that each image's teacher map gives.
    The scale, one a channel, starts at 0: so z starts as s, and the convolutions move once the
    scale has. The norm has the statistics of the batch in evaluation too; nothing of it is kept.

    Instance normalization of z takes off what is the same in all cells. So W has no bias, the norm
    no shift, and theta, where there is no norm, no bias: they would never have a gradient. Behind
    GN, whose deviation is of several channels, a bias of W would have one; there is none either.
    """

    def __init__(self, channels: int, norm: str, pool: int) -> None:
        """Build the layers.

        Args:
            channels: C of both maps.
            norm: "BN", "SyncBN", "GN" (up to 32 groups, as many as divide C) or "none".
            pool: side of the pooling window over keys and values, cells; cut to the map.
        """
        super().__init__()
        hidden = max(channels // 2, 1)
        self.theta = nn.Conv2d(channels, hidden, 1, bias=norm != "none")
        self.phi, self.g = (nn.Conv2d(channels, hidden, 1) for _ in range(2))
        self.out = nn.Conv2d(hidden, channels, 1, bias=False)
        self.norm, self.pool = _norm(norm, channels), pool
        self.scale = nn.Parameter(torch.zeros(channels))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Maps (N, C, H, W) and, of any size, (N, C, H', W') to (N, C, H, W), at least float32."""
        theta = self.theta(student)
        phi, g = (pooled(conv(teacher), self.pool) for conv in (self.phi, self.g))
        y = non_local_product(theta.flatten(2), phi, g).view(theta.shape)
        with no_autocast(y):  # products of three features leave the range of float16
            y = normalized(self.norm, self.out(y))
        return at_least_float(student) + self.scale.view(-1, 1, 1) * y


def _norm(name: str, channels: int) -> nn.Module:
    """Without a scale and shift of its own, and with the statistics of the batch alone."""
    return nn.Identity() if name == "none" else NORMS[name](channels, affine=False)


@DISTILLATION_HEAD_REGISTRY.register()
class CanKD(FeatureHead):
    """The student's map, changed by attention to the teacher's, beside the teacher's map.

    The loss is half the mean squared difference of z and t after instance normalization
    (`instance_norm_loss`), summed over the finest common strides, with z of `CrossNonLocal`. The
    published weight is 10 a level; the README, which leaves out the half, calls it 5. At the start
    z is s, and the loss that of PKD with statistics of each image.

    Ours: a 1x1 convolution on the student's side where the widths differ; the products in an order
    that forms no matrix over pairs of cells; the norms but BN.
    """

    default_weight = 10.0

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        num_levels: int = 4,
        norm: str = "BN",
        pool: int = 2,
    ) -> None:
        """Build a module for each level, and projections where channel numbers differ.

        Args:
            student, teacher: the two detectors.
            num_levels: number of common strides used, from the finest.
            norm: "BN" as released, with each GPU's batch statistics, "SyncBN" (GPUs only where
                there are several), "GN" or "none".
            pool: side of the max-pooling window over the teacher's cells; 1 for none.

        Raises:
            ValueError: no common stride, or an option out of range.
        """
        super().__init__(student, teacher, num_levels)
        choices = {"NORM": (norm, _NORMS)}
        check_options("CanKD", above_zero={"POOL": pool}, choices=choices)
        self.attend = nn.ModuleDict(
            {str(s): CrossNonLocal(c, norm, pool) for s, (_, c) in self.widths.items()}
        )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "feat"."""
        levels = self.levels(student, teacher)
        return {"feat": total(instance_norm_loss(*self._pair(k, *x)) for k, x in levels.items())}

    def _pair(self, stride: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss compares at a level."""
        return self.attend[str(stride)](student, teacher.detach()), teacher

    @torch.no_grad()
    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class: "difference", and "normalized difference" of what is compared."""
        levels = self.levels(student, teacher).items()
        pairs = {k: map(instance_norm, self._pair(k, *x)) for k, x in levels}
        compared = {k: difference_map(*pair) for k, pair in pairs.items()}
        return {**super().maps(student, teacher), "normalized difference": compared}
