"""VFM: the map of a vision foundation model as a teacher of directions.

The feature term of RT-DETRv4 (Liao et al., 2025, arXiv 2510.25257), for any student and teacher.
"""

from typing import Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..adapters.padding import valid_cells
from ..losses.feature import cosine_distance
from ..losses.precision import at_least_float
from ..losses.reduce import mean_over_ranks
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead
from .options import check_options

_STRIDE = 32  # px, of RT-DETRv4's only level
_MIX = 0.9  # of the cosine in "mixed"


@DISTILLATION_HEAD_REGISTRY.register()
class VFM(DistillationHead):
    """Cosine distance of the student's projected map from one map of the teacher.

    L = sum over the cells p on images of 1 - cos(P s_p, t_p), divided by their number, and summed
    over levels; P is trained. The teacher needs no levels, boxes or classes: a ViT gives the grid
    of its patches (`TimmGrid`). Of a teacher with several maps the coarsest up to 32 px is taken.
    For a coarser level of the student it is averaged over blocks of cells, for a finer one
    interpolated between their centers. Released weights are 5, 15 and 20, by model size; a comment
    in the code says that they are five times the setting that the paper reports.

    RT-DETRv4 has one level, of stride 32 before the fusion from the top down, a linear P and square
    images. Ours: other strides; cells of batch padding are left out, and the number of the others
    is that of all ranks; P "mlp"; the loss "mixed"; a weight that holds the gradient's share in a
    band (DISTILL.BALANCE) instead of RT-DETRv4's rule for each epoch.
    """

    default_weight = 5.0

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        strides: Sequence[int] = (),
        projector: str = "linear",
        loss: str = "cosine",
    ) -> None:
        """Choose the levels and build a projector for each.

        Args:
            student, teacher: the two detectors.
            strides: of the student's levels in use, px; () for 32 alone, or the coarsest below.
            projector: "linear", a 1x1 convolution, or "mlp", two of the teacher's width with GELU
                between them.
            loss: "cosine", or "mixed", 0.9 of that and 0.1 of the mean smooth L1 over channels.

        Raises:
            ValueError: a stride that the student lacks or that does not fit the teacher's, or an
                option out of range.
        """
        super().__init__()
        projectors, losses = ("linear", "mlp"), ("cosine", "mixed")
        choices = {"PROJECTOR": (projector, projectors), "LOSS": (loss, losses)}
        check_options("VFM", choices=choices)
        self.teacher_stride = _coarsest(teacher)
        self.strides = _strides(list(strides) or [_coarsest(student)], student, self.teacher_stride)
        self.mixed = loss == "mixed"
        width = teacher.features[self.teacher_stride].channels
        self.project = nn.ModuleDict(
            {str(s): _projector(student.features[s].channels, width, projector)
             for s in self.strides}
        )  # fmt: skip

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "feat"."""
        cells, sums = [], []
        for stride, (s, t) in self.levels(student, teacher).items():
            distance = cosine_distance(s, t)
            if self.mixed:
                absolute = F.smooth_l1_loss(at_least_float(s), t, reduction="none").mean(1)
                distance = _MIX * distance + (1 - _MIX) * absolute
            valid = valid_cells(student.images, {stride: s}, 1, 1)[stride]
            cells.append(valid.view_as(distance).to(distance.dtype))
            sums.append((cells[-1] * distance).sum())
        counts = mean_over_ranks(torch.stack([x.sum() for x in cells]))
        return {"feat": (torch.stack(sums) / counts.clamp(min=1)).sum()}

    def levels(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[int, Tuple[Tensor, Tensor]]:
        """Stride -> (projected student map, teacher map at its cells), both (N, D, H, W)."""
        t = at_least_float(teacher.features[self.teacher_stride].detach())
        maps = {s: student.features[s] for s in self.strides}
        return {
            s: (self.project[str(s)](x), at_stride(t, self.teacher_stride, s, x.shape[2:]))
            for s, x in maps.items()
        }

    @torch.no_grad()
    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class: "cosine distance", 0 to 2."""
        levels = self.levels(student, teacher).items()
        return {"cosine distance": {k: cosine_distance(*x).clamp(min=0) for k, x in levels}}


def at_stride(x: Tensor, stride: int, wanted: int, size: Sequence[int]) -> Tensor:
    """A map at the cells of another stride.

    Args:
        x: (N, C, H, W) of `stride`, px.
        stride: multiple or divisor of `wanted`.
        wanted: stride (px) of the result: averages of blocks where it is larger, the last ones of
            what the map has left, bilinear interpolation between the cells' centers otherwise.
        size: rows and columns of the result.
    """
    if wanted > stride:
        block = wanted // stride
        x = F.avg_pool2d(x, block, ceil_mode=True, count_include_pad=False)
    elif wanted < stride:
        x = F.interpolate(x, scale_factor=stride / wanted, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


def _coarsest(spec: DetectorSpec) -> int:
    """Stride of the coarsest map up to 32 px, else of the finest."""
    return max((s for s in spec.features if s <= _STRIDE), default=min(spec.features))


def _strides(chosen: List[int], student: DetectorSpec, teacher: int) -> List[int]:
    known = sorted(student.features)
    fitting = [s for s in known if max(s, teacher) % min(s, teacher) == 0]
    if not all(s in fitting for s in chosen):
        raise ValueError(
            f"DISTILL.VFM.STRIDES is {tuple(chosen)}: the student {student.name} has strides "
            f"{known} px; choose from {fitting}, multiples or divisors of the teacher's {teacher}."
        )
    return [s for s in fitting if s in chosen]


def _projector(channels: int, width: int, kind: str) -> nn.Module:
    first = nn.Conv2d(channels, width, 1)
    return nn.Sequential(first, nn.GELU(), nn.Conv2d(width, width, 1)) if kind == "mlp" else first
