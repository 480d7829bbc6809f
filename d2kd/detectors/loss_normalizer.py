"""Moving averages that normalize losses, which stock detectors keep outside of their buffers."""

from typing import Dict

from torch import nn

_NAMES = ("loss_normalizer",)


def moving_averages(detector: nn.Module) -> Dict[str, float]:
    """The averages of a detector, by name."""
    return {name: float(getattr(detector, name)) for name in _NAMES if hasattr(detector, name)}


def set_moving_averages(detector: nn.Module, values: Dict[str, float]) -> None:
    """Put averages back, in place; those that `values` lacks start anew."""
    for name in _NAMES:
        if name in values:
            setattr(detector, name, values[name])
        elif name in vars(detector):
            delattr(detector, name)
