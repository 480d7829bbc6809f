"""Two configs, with their defaults."""

from typing import Any, Dict, Iterable

from ...config import get_d2kd_cfg, merge_config_file
from ...config.keys import flatten
from ...engine.changes import as_json
from ...engine.compare import Change, Inputs, find_changes, key_changes
from .part import Part

_LENGTH = "SOLVER.MAX_ITER"  # which a resumed run may prolong, and which counts here
_NOTHING: Inputs = {"teachers": [], "teachers' weights": [], "datasets": {}, "weights": {},
                    "classes": []}  # fmt: skip


def read_keys(path: str, key: str) -> Dict[str, Any]:
    """All keys of a config with dots, as json has them, those that it does not set too.

    Args:
        path: see `d2kd.config.locate.resolve_config_file`.
        key: the argument that named it, for errors.

    Raises:
        ConfigError: it is no config.
    """
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, path, key)
    return as_json(dict(flatten(cfg)))


def compare_keys(a: Dict[str, Any], b: Dict[str, Any]) -> Part:
    """Compare what two files set; files and data sets by name."""
    keys = {**a, **b}
    return _part("config", key_changes(_filled(a, keys), _filled(b, keys)), len(keys))


def compare_inputs(a: Inputs, b: Inputs) -> Part:
    """Compare what two runs were made of, see `inputs_of`; files and data sets by their content.

    Keys that a run did not record had their defaults.
    """
    defaults = as_json(dict(flatten(get_d2kd_cfg())))
    keys = {**defaults, **a.get("config", {}), **b.get("config", {})}
    whole = [
        {**_NOTHING, **x, "config": _filled({**defaults, **x.get("config", {})}, keys)}
        for x in (a, b)
    ]
    return _part("config and inputs", find_changes(*whole), len(keys))


def _filled(config: Dict[str, Any], keys: Dict[str, Any]) -> Dict[str, Any]:
    """`config` with None for the keys that it lacks, such as those of a method of one's own."""
    return {**dict.fromkeys(keys), **config}


def _part(name: str, changes: Iterable[Change], keys: int) -> Part:
    part = Part(name, "keys")
    for change in changes:
        is_free = change.allowed and change.what != _LENGTH
        (part.free if is_free else part.found).append(str(change))
    part.equal = keys - len(part.found) - len(part.free)
    return part
