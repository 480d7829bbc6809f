"""Two checkpoints: weights, projections, and the states of the optimizer and of hooks."""

from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from ...checkpoint import read_stored
from ...checkpoint.values import as_tensors
from ...engine.metrics_file import TIMES
from ...errors import ConfigError
from ...text import plain
from .part import Part, compare_values

_MODEL, _STATE = "model", "trainer"
_MOST_VALUES, _DEEPEST = 1_000_000, 50
_POSITION = ("ExactResume", "metrics", "size")  # bytes of metrics.json, in which times are
_UNITS = {_MODEL: "tensors", "distillation": "tensors"}


def read_checkpoint(path: str) -> Dict[str, Any]:
    """What is in a file of weights; nothing in it is executed.

    Returns:
        Its sections, such as "model", "distillation", "trainer" and "iteration".

    Raises:
        MissingFileError: it does not exist.
        ConfigError: it is damaged, or no file of weights.
    """
    data = read_stored(path)
    try:
        as_tensors(data[_MODEL])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}.") from None
    return data


def compare_checkpoints(a: Mapping[str, Any], b: Mapping[str, Any]) -> List[Part]:
    """Compare all sections of two files, weights first; times do not count.

    Raises:
        ConfigError: a section holds too many values, or is nested too deep.
    """
    names = dict.fromkeys((_MODEL, "iteration", *a, *b))
    return [_compare(name, a, b) for name in names if name in a or name in b]


def _compare(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Part:
    left, right = (_values(plain(name), x[name]) if name in x else {} for x in (a, b))
    return compare_values(plain(name), _UNITS.get(name, "values"), left, right)


def _values(section: str, content: Any) -> Dict[str, Any]:
    """Tensors and other values by their keys joined with dots, in order."""
    found: Dict[str, Any] = {}
    for path, value in _leaves((), content):
        if section != _STATE or not (set(path) & set(TIMES) or path[-3:] == _POSITION):
            found[".".join(path) or section] = value
        if len(found) > _MOST_VALUES:
            raise ConfigError(f"{section} holds more than {_MOST_VALUES:,} values.")
    return found


def _leaves(path: Tuple[str, ...], value: Any) -> Iterator[Tuple[Tuple[str, ...], Any]]:
    if len(path) > _DEEPEST:
        raise ConfigError(f"{plain('.'.join(path[:3]))} is nested too deep.")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (dict, list, tuple)):
        yield path, value
        return
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in inside:
        yield from _leaves((*path, plain(key)), inner)
