"""The precision in which losses are computed."""

from torch import Tensor


def at_least_float(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision; float32 and float64 stay as they are."""
    return x if x.dtype.itemsize >= 4 else x.float()
