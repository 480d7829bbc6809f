"""Whether a teacher may compute in 16 bits: DISTILL.TEACHER.PRECISION auto."""

import math
import statistics
import time
from typing import FrozenSet, List, NamedTuple, Tuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..adapters import DetectorOutput
from .teacher import Teacher

TOLERANCE = 0.05  # of the norm of a map
_MAPS = ("features", "logits", "deltas", "quality", "cls_taps", "reg_taps")


class Trial(NamedTuple):
    """Bf16 with maps in NHWC order against fp32, on one batch.

    `distance` is the largest norm of a map's difference, of the map's own norm; `ratio` is the time
    of bf16 in that of fp32.
    """

    distance: float
    ratio: float

    @property
    def precision(self) -> str:
        """Bf16 where it is faster and within `TOLERANCE`, otherwise fp32."""
        return "bf16" if self.distance <= TOLERANCE and self.ratio < 1 else "fp32"

    def __str__(self) -> str:
        return (
            f"{self.precision} (bf16 takes {self.ratio:.2f} of fp32's time, its maps differ by at "
            f"most {self.distance:.1%} of their norm, {TOLERANCE:.0%} are allowed)"
        )


def try_precision(
    teacher: Teacher, batch: List[dict], divisor: int, input_format: str, need: FrozenSet[str]
) -> Trial:
    """Run a teacher in fp32 and in bf16, four times each, in this process; it is left in fp32.

    Where nothing is read but boxes, there is no map to compare, and bf16 does not count as close.

    Args:
        teacher: of PRECISION auto.
        batch, divisor, input_format, need: see a call of it.
    """
    cache, teacher.cache = teacher.cache, None
    runs = []
    for precision in ("bf16", "fp32"):
        teacher.set_precision(precision)
        turns = [_timed(teacher, (batch, divisor, input_format, need)) for _ in range(4)][1:]
        runs.append((turns[0][0], statistics.median(seconds for _, seconds in turns)))
    teacher.cache = cache
    (half, quick), (full, slow) = runs
    pairs = zip(_maps(half), _maps(full), strict=True)
    distances = [float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in pairs]
    known = bool(distances) and all(map(math.isfinite, distances))
    return Trial(max(distances) if known else math.inf, quick / slow)


def _timed(teacher: Teacher, arguments: tuple) -> Tuple[DetectorOutput, float]:
    device, start = teacher.adapter.device, time.perf_counter()
    output = teacher(*arguments)
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return output, time.perf_counter() - start


def _maps(output: DetectorOutput) -> List[Tensor]:
    return [x.float() for name in _MAPS for x in tree_leaves(getattr(output, name))]
