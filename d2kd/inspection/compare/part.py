"""Two sets of values by name: what differs first, and a count of the rest."""

import math
from dataclasses import dataclass, field
from typing import Any, List, Mapping

import torch
from torch import Tensor

from ...checkpoint.values import first_names


@dataclass
class Part:
    """What a comparison found in one part, such as a file.

    Attributes:
        name: of the part.
        unit: what is counted, such as "keys".
        found: differences, a line each.
        free: those that do not count, such as the output folder.
        more: further differences, which have no line.
        equal: how many are equal.
    """

    name: str
    unit: str
    found: List[str] = field(default_factory=list)
    free: List[str] = field(default_factory=list)
    more: int = 0
    equal: int = 0

    def lines(self) -> List[str]:
        """Of a text: what differs, then the rest."""
        equal = f"{self.equal:,} {self.unit} are equal"
        if not self.found and not self.free:
            return [f"{self.name}: {equal}"]
        more = f"{self.more:,} more differ, " if self.more else ""
        free = [f"{x} (does not count)" for x in self.free]
        return [self.name, *(f"  {x}" for x in [*self.found, *free]), f"  {more}{equal}"]


def compare_values(
    name: str, unit: str, a: Mapping[str, Any], b: Mapping[str, Any], shown: int = 1
) -> Part:
    """Compare values by name, in their order: tensors, numbers, texts and None.

    Args:
        name: of the part.
        unit: what they are.
        a: values of any kind.
        b: other values.
        shown: how many differences get a line.
    """
    both = [key for key in a if key in b]
    different = [key for key in both if not is_same(a[key], b[key])]
    found = [describe(key, a[key], b[key]) for key in different[:shown]]
    for which, mine, other in (("A", a, b), ("B", b, a)):
        if alone := [key for key in mine if key not in other]:
            found.append(f"only in {which}: {first_names(alone)} ({len(alone):,} {unit})")
    more = max(len(different) - shown, 0)
    return Part(name, unit, found, more=more, equal=len(both) - len(different))


def is_same(a: Any, b: Any) -> bool:
    """Whether two values are equal; NaN equals NaN, and tensors need one shape and one type."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return alike and (torch.equal(a, b) or not _differs(a, b).any())
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return bool(a == b or (a != a and b != b))


def describe(name: str, a: Any, b: Any) -> str:
    """A line about two values that differ."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return f"{name} was {_kind(a)} and is {_kind(b)}"
    if a.shape != b.shape:
        return f"{name} was {_kind(a)} and is {_kind(b)}"
    kind = _kind(a) if a.dtype == b.dtype else f"was {_kind(a)}, is {_kind(b)}"
    differs = _differs(a, b)
    count = int(differs.sum())
    if not count:
        return f"{name}, {kind}: the numbers are equal"
    x, y = a[differs].double(), b[differs].double()
    by = (x - y).abs().nan_to_num(nan=math.inf)
    relative = (by / torch.maximum(x.abs(), y.abs())).nan_to_num(nan=math.inf)
    return (
        f"{name}, {kind}: {count:,} of {a.numel():,} elements differ, by at most {by.max():.4g}, "
        f"relative to the larger {relative.max():.4g}"
    )


def _differs(a: Tensor, b: Tensor) -> Tensor:
    """Which elements differ; floats of any width are compared as float64, which holds them all."""
    a, b = (x.double() if x.is_floating_point() else x for x in (a, b))
    return (a != b) & ~((a != a) & (b != b))


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
