"""What normalizes and weighs losses and is kept outside of a detector's buffers."""

from typing import Dict, List, Sequence, Union

import torch
from torch import Tensor, nn

Average = Union[float, Tensor]
Saved = Union[float, List]
_OF_A_RANK = ("loss_normalizer",)
_NAMES = (*_OF_A_RANK, "level_counts")


def moving_averages(detector: nn.Module) -> Dict[str, Average]:
    """The averages of a detector, and its counts of positives, by name.

    Tensors are those of the detector, which replaces them and never changes them.
    """
    found = {name: getattr(detector, name) for name in _NAMES if hasattr(detector, name)}
    return {k: v if isinstance(v, Tensor) else float(v) for k, v in found.items()}


def averages_to_save(detector: nn.Module) -> Dict[str, Saved]:
    """The same as numbers and lists of numbers, which wait for the device."""
    found = moving_averages(detector).items()
    return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in found}


def set_moving_averages(detector: nn.Module, values: Dict[str, Average] | Dict[str, Saved]) -> None:
    """Put back, in place, what either function returned; what `values` lacks starts anew."""
    _put_back(detector, values, _NAMES)


def undo_normalizer(detector: nn.Module, values: Dict[str, Average]) -> None:
    """Put back, in place, what `moving_averages` returned before a batch that does not count.

    Counts are kept: they are sums over ranks, of which others may have counted in that batch.
    """
    _put_back(detector, values, _OF_A_RANK)


def _put_back(
    detector: nn.Module, values: Dict[str, Average] | Dict[str, Saved], names: Sequence[str]
) -> None:
    for name in names:
        if name in values:
            value = values[name]
            if isinstance(value, list):
                value = torch.tensor(value, dtype=torch.float64)
            setattr(detector, name, value)
        elif name in vars(detector):
            delattr(detector, name)
