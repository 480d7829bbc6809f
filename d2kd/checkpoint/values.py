"""The gate for everything that claims to be weights: types, finite numbers, no dead tensors."""

import hashlib
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..text import plain

_HINT = (
    "; its tensors are under state_dict, as mmdetection and Lightning write them: `d2kd convert "
    "mmdet FILE FOLDER` converts a detector of mmdetection"
)


def as_tensors(weights: Any) -> None:
    """Turn the arrays of a dictionary of weights into tensors, in place.

    Args:
        weights: anything that a file gave under "model".

    Raises:
        ConfigError: it is no dictionary of dense tensors of numbers or booleans, by name.
    """
    if not isinstance(weights, dict) or not weights:
        raise ConfigError(f"it holds no dictionary of tensors, but {_kind(weights)}")
    others = [f"{_name(k)} ({_kind(x)})" for k, x in weights.items() if not _is_array(k, x)]
    if others:
        hint = _HINT if isinstance(weights.get("state_dict"), dict) else ""
        raise ConfigError(
            f"it holds other things than tensors by name: {first_names(others)}{hint}"
        )
    for name, x in weights.items():
        if isinstance(x, np.ndarray):
            native = np.require(x, x.dtype.newbyteorder("="), ["C", "W", "E"])
            weights[name] = torch.from_numpy(native)
    if strange := [name for name, x in weights.items() if x.is_complex()]:
        raise ConfigError(f"tensors are complex: {first_names(strange)}")


def check_values(weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Check the numbers, as the model will hold them.

    Args:
        weights: tensors by name; names that the model lacks are checked for themselves.
        model: the state of a new model. What is all zero there may be so in a file, and a buffer
            that has infinite values there, such as a mask of attention, may have the same.

    Raises:
        ConfigError: names the tensors.
    """
    problems: Dict[str, List[str]] = {}
    for name, tensor in weights.items():
        target = model.get(name, model.get(name.removeprefix("module.")))
        if target is None or target.shape != tensor.shape:
            target = tensor
        problem = _problem(name, tensor, target)
        problems.setdefault(problem, []).append(name)
    for problem, names in problems.items():
        if problem:
            raise ConfigError(f"{problem}: {first_names(names)}; it is damaged, or no detector's")


def check_finite(state: Any, name: str) -> None:
    """Check all tensors of a nested state, such as an optimizer's.

    Raises:
        ConfigError: names the tensors that are not finite.
    """
    broken = [key for key, x in tensors_in(state, name) if not _is_finite(*_range(x))]
    if broken:
        raise ConfigError(f"numbers that are NaN or infinite values: {first_names(broken)}")


def digest(module: nn.Module) -> str:
    """What tells a module's weights from any others: 40 hexadecimal digits of names and values."""
    return digest_of(module.state_dict())


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The same of tensors by name."""
    found = hashlib.blake2b(digest_size=20)
    for name, x in sorted(tensors.items()):
        found.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        found.update(x.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def first_names(names: List[str]) -> str:
    """Names for a message, the first five of them."""
    shown = [plain(name, 100) for name in names[:5]]
    return ", ".join(shown) + (", ..." if len(names) > 5 else "")


def _problem(name: str, tensor: Tensor, target: Tensor) -> str:
    """What is wrong with a tensor that goes into `target`, or is itself; "" if nothing is."""
    if target.is_floating_point() and not tensor.is_floating_point():
        return "tensors of whole numbers where a detector has fractions"
    least, most = _range(tensor)
    if not _is_finite(least, most):
        same = target is not tensor and torch.equal(tensor, target.to(tensor))
        return "" if same else "tensors with NaN or infinite values"
    if target.is_floating_point():
        limit = torch.finfo(target.dtype)
        if least < limit.min or most > limit.max:
            return f"tensors with infinite values in {str(target.dtype).removeprefix('torch.')}"
        tiny = max(-least, most) < limit.smallest_normal * limit.eps
        never_zero = tensor.dim() > 1 or name.endswith("running_var")
        if tiny and never_zero and target is not tensor and bool(target.any()):
            return "tensors of nothing but zeros, which a new detector does not have"
    if name.endswith("running_var") and least < 0:
        return "variances below zero"
    return ""


def _range(x: Tensor) -> Tuple[float, float]:
    """Smallest and largest number, both NaN if one is; zeros for none."""
    if not x.numel() or not (x.is_floating_point() or x.dtype in _INTEGERS):
        return 0.0, 0.0
    wide = x.float() if x.element_size() == 1 and x.is_floating_point() else x.detach()
    least, most = torch.aminmax(wide)
    return least.item(), most.item()


def _is_finite(least: float, most: float) -> bool:
    return abs(least) != float("inf") and abs(most) != float("inf") and least == least


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PLAIN: Tuple[Callable[[Tensor], bool], ...] = (
    lambda x: x.layout == torch.strided,
    lambda x: not (x.is_quantized or x.is_meta or x.is_nested),
    lambda x: x.is_floating_point() or x.is_complex() or x.dtype in (*_INTEGERS, torch.bool),
)


def _is_array(name: object, value: object) -> bool:
    if isinstance(value, Tensor):
        return isinstance(name, str) and all(holds(value) for holds in _PLAIN)
    numbers = isinstance(value, np.ndarray) and value.dtype.char in "?bBhilqefdFD"
    return isinstance(name, str) and numbers and not isinstance(value, np.ma.MaskedArray)


def _name(name: object) -> str:
    return plain(name, 100) if isinstance(name, str) else f"a {type(name).__name__} for a name"


def _kind(value: object) -> str:
    """The type of an object, for a message."""
    if isinstance(value, Tensor):
        layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        place = "without numbers, on the meta device, " if value.is_meta else ""
        return f"{layout} tensor {place}of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__} of {plain(value.dtype, 40)}"
    return type(value).__name__


def tensors_in(state: Any, name: str) -> Iterator[Tuple[str, Tensor]]:
    """The tensors of nested dictionaries and lists, with where they are."""
    waiting, seen = [(name, state)], set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}.{plain(key, 40)}", x) for key, x in inside]
