"""What the names in a pickle of weights stand for: functions that make data and nothing else."""

import math
import pickle
from collections import Counter, OrderedDict
from typing import Any, Callable, Dict, Tuple

import numpy as np
import torch
from torch import Tensor

Names = Dict[Tuple[str, str], Any]
Spend = Callable[[Any, int], Any]
"""From a value and the bytes that it took to the value, if the file may have so many."""

_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool, "Untyped": torch.uint8,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
_TYPES = {("torch", name): x for name, x in vars(torch).items() if isinstance(x, torch.dtype)}
_LAYOUTS = {str(x): x for x in vars(torch).values() if isinstance(x, torch.layout)}
_NUMPY_CODES = {"b1", *"bBhHiIlLqQefd?", *(f"{kind}{size}" for kind in "iuf" for size in "1248")}
_MOST_DIMENSIONS = 16


class Inert:
    """Stands for any object of a file; takes what unpickling does to it and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        """Take any arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Forget them."""

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __setstate__ = append = extend = add = __setitem__ = update = _ignore


class Array(np.ndarray):
    """An array that takes plain numbers only as its state."""

    def __setstate__(self, state: Any) -> None:
        """Take the shape, the `Dtype`, whether columns come first, and the bytes."""
        _, shape, dtype, by_column, raw = state
        super().__setstate__((1, shape, dtype.numpy, bool(by_column), raw))  # type: ignore[arg-type]


class Dtype:
    """The type of numbers that an array holds, `numpy`."""

    def __init__(self, code: str, *_: Any) -> None:
        """Take the code of a type of plain numbers, such as "f4"."""
        if code not in _NUMPY_CODES:
            raise pickle.UnpicklingError(f"it holds arrays of type {code}, which are no numbers")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        """Take the order of the bytes."""
        self.numpy = self.numpy.newbyteorder(state[1] if state[1] in ("<", ">") else "=")


def python_names(spend: Spend) -> Names:
    """Containers, and the bytes that Python 2's protocol writes as text."""
    return {
        ("collections", "OrderedDict"): lambda *x: spend(OrderedDict(*x), 64 * _count(x)),
        ("collections", "Counter"): lambda *x: spend(Counter(*x), 64 * _count(x)),
        ("builtins", "set"): lambda *x: spend(set(*x), 64 * _count(x)),
        ("builtins", "bytearray"): lambda *x: spend(_bytearray(*x), sum(map(len, x[:1]))),
        ("builtins", "complex"): lambda *x: spend(complex(*x), 32),
        ("_codecs", "encode"): lambda text, _: spend(text.encode("latin1"), len(text)),
    }


def _bytearray(raw: str | bytes = b"", *_: Any) -> bytearray:
    return bytearray(raw.encode("latin1") if isinstance(raw, str) else memoryview(raw))


def numpy_names() -> Names:
    """Arrays and single numbers of NumPy."""

    def from_buffer(raw: Any, dtype: Dtype, shape: Any, order: Any) -> np.ndarray:
        return np.frombuffer(raw, dtype.numpy).reshape(shape, order=order)

    names: Names = {
        ("numpy", "ndarray"): "ndarray",
        ("numpy", "dtype"): lambda *x: Dtype(*x),
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = lambda *_: Array((0,), np.uint8)
        names[f"{core}.multiarray", "scalar"] = lambda dtype, raw: np.frombuffer(
            raw.encode("latin1") if isinstance(raw, str) else raw, dtype.numpy
        )[0]
        names[f"{core}.numeric", "_frombuffer"] = from_buffer
    return names


def torch_names(spend: Spend, size: int) -> Names:
    """Tensors, each no larger than `size` bytes; parameters become tensors."""

    def tensor(storage: Tensor, offset: int, shape: Any, stride: Any, *flags: Any) -> Tensor:
        _check_extent(storage, offset, shape, stride, size)
        if any(flags):  # such as the bit of a conjugate
            raise pickle.UnpicklingError(f"it holds a tensor with the flags {flags}")
        made = torch.empty(0, dtype=storage.dtype)
        return spend(made.set_(storage.untyped_storage(), offset, shape, stride), made.nbytes)

    return {
        **_TYPES,
        **{
            (module, f"{name}Storage"): dtype for name, dtype in _STORAGES.items()
            for module in ("torch", "torch.cuda", "torch.storage")
        },
        ("torch.serialization", "_get_layout"): _LAYOUTS.__getitem__,
        ("torch", "Size"): lambda sizes=(): torch.Size(sizes),
        ("torch", "device"): lambda *x: torch.device(*x),
        ("torch", "Tensor"): "Tensor",
        ("torch.nn.parameter", "Parameter"): "Parameter",
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *x: tensor(*x[:4], *x[6:]),
        ("torch._utils", "_rebuild_tensor_v3"): lambda storage, *x: tensor(
            storage.view(x[5]), *x[:3], *x[6:]
        ),
        ("torch._utils", "_rebuild_parameter"): lambda x, *_: x,
        ("torch._utils", "_rebuild_parameter_with_state"): lambda x, *_: x,
        ("torch._tensor", "_rebuild_from_type_v2"): lambda make, _, x, *__: make(*x),
    }  # fmt: skip


def _check_extent(storage: Tensor, offset: int, shape: Any, stride: Any, size: int) -> None:
    """A tensor lies in its storage, and is not larger than its file."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    nbytes = math.prod(shape) * storage.element_size()
    inside = min(0, offset, *shape, *stride) == 0 and (last < len(storage) or not nbytes)
    if not inside or nbytes > size or len(shape) > _MOST_DIMENSIONS:
        numbers = "x".join(map(str, shape[:_MOST_DIMENSIONS]))
        raise pickle.UnpicklingError(
            f"it claims a tensor of {numbers} numbers, more than it stores"
        )


def _count(arguments: Tuple[Any, ...]) -> int:
    return sum(map(len, arguments))
