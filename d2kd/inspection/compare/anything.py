"""Two runs, checkpoints or configs: which they are, and where they differ."""

import os
from pathlib import Path
from typing import Callable, Dict, List, Tuple

from ...engine.run_files import check_run
from ...errors import ConfigError
from ...file_io import expect, kind_of
from ...text import plain
from .checkpoints import compare_checkpoints, read_checkpoint
from .configs import compare_keys, read_keys
from .part import Part
from .runs import compare_runs

_SUFFIXES = (".pth", ".pkl", ".safetensors")
_RUN, _WEIGHTS, _CONFIG = "the folder of a run", "a file of weights", "a config"
_GROUPS = {"weights": _WEIGHTS, "mmdet": _WEIGHTS, "config": _CONFIG}


def compare(a: str, b: str) -> Tuple[List[str], bool]:
    """Say where two things of one kind differ, and how much is equal.

    Args:
        a: the folder of a run, a checkpoint (.pth, .pkl, .safetensors) or a config: a yaml file, or
            the name of one that d2kd ships.
        b: another.

    Returns:
        Tuple: lines, and whether all is equal but times and what changes nothing in what is learnt
        (`d2kd.engine.compare.FREE`).

    Raises:
        MissingFileError: one of them does not exist.
        ConfigError: one is damaged or something else, or they are of two kinds.
    """
    kinds = _kind(a, "A"), _kind(b, "B")
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"A {plain(a)} is {kinds[0]} and B {plain(b)} is {kinds[1]}: name two of one kind."
        )
    parts = _COMPARE[kinds[0]](a, b)
    parts.sort(key=lambda part: not part.found)
    return [line for part in parts for line in part.lines()], not any(x.found for x in parts)


def _kind(path: str, key: str) -> str:
    if os.path.isdir(path):
        check_run(Path(path), key)
        return _RUN
    expect(path, key, *_GROUPS)
    kind = kind_of(path)
    by_name = _WEIGHTS if path.endswith(_SUFFIXES) else _CONFIG
    return by_name if kind is None else _GROUPS[kind.group]


def _two_runs(a: str, b: str) -> List[Part]:
    return compare_runs(Path(a), Path(b))


def _two_checkpoints(a: str, b: str) -> List[Part]:
    return compare_checkpoints(read_checkpoint(a), read_checkpoint(b))


def _two_configs(a: str, b: str) -> List[Part]:
    return [compare_keys(read_keys(a, "A"), read_keys(b, "B"))]


_COMPARE: Dict[str, Callable[[str, str], List[Part]]] = {
    _RUN: _two_runs, _WEIGHTS: _two_checkpoints, _CONFIG: _two_configs,
}  # fmt: skip
