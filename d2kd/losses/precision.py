"""The precision in which losses are computed."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision; float32 and float64 stay as they are."""
    return x if x.dtype.itemsize >= 4 else x.float()


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Where products of matrices keep the type of their inputs, on the device of `x`.

    Autocast takes them to half precision, whatever their inputs are.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
