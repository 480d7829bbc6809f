"""What the names and shapes of tensors say of a ResNet of mmdetection."""

import re
from itertools import count
from typing import Dict, List, Tuple

from torch import Tensor

from ..errors import ConfigError

_DEPTHS: Dict[Tuple[Tuple[int, ...], bool], int] = {  # by blocks of the stages, bottleneck or not
    ((2, 2, 2, 2), False): 18, ((3, 4, 6, 3), False): 34, ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101, ((3, 8, 36, 3), True): 152,
}  # fmt: skip


def count_modules(state: Dict[str, Tensor], prefix: str) -> int:
    """How many modules there are with weights, numbered from 0."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\..*weight$")
    found = {int(m[1]) for m in map(pattern.match, state) if m}
    return next(n for n in count() if n not in found)


def rows(state: Dict[str, Tensor], name: str) -> int:
    """Length of a tensor, 0 if it is not there."""
    return state[name].shape[0] if name in state else 0


def stages(state: Dict[str, Tensor]) -> List[int]:
    """Blocks of each stage."""
    return [count_modules(state, f"backbone.layer{n}") for n in range(1, 5)]


def depth_of(blocks: List[int], bottleneck: bool) -> int:
    """The number in a ResNet's name.

    Raises:
        ConfigError: Detectron2 has none with these blocks.
    """
    depth = _DEPTHS.get((tuple(blocks), bottleneck))
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise ConfigError(f"No ResNet of Detectron2 has {blocks} {kind} blocks.")
    return depth


def offset_rows(state: Dict[str, Tensor], conv: str) -> int:
    """Rows of the offsets of a convolution, 0 without; old versions of mmcv name them otherwise."""
    names = f"{conv}.conv_offset.weight", f"{conv}_offset.weight"
    return max(rows(state, name) for name in names)
