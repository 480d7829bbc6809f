"""The keys of a config as a flat list."""

from typing import Any, Dict, List

from detectron2.config import CfgNode

from ..errors import ConfigError

WITH_TEACHERS = ("Distiller", "TokenLearner")
"""Meta-architectures around teachers; the detector that a config is of is DISTILL.STUDENT then."""


def flatten(node: Dict[Any, Any], dot: str = ".") -> Dict[str, Any]:
    """Values of a config, or of a yaml or json file, by their keys joined with dots, in order."""
    found, rest = {}, [(str(key), value) for key, value in reversed(node.items())]
    while rest:
        key, value = rest.pop()
        if isinstance(value, dict):
            rest += [(f"{key}{dot}{inner}", x) for inner, x in reversed(value.items())]
        else:
            found[key] = value
    return found


def changed_keys(cfg: CfgNode, defaults: CfgNode) -> List[str]:
    """Keys of `cfg` whose values are not those of `defaults`."""
    before = flatten(defaults)
    return [key for key, value in flatten(cfg).items() if key not in before or before[key] != value]


def refuse_none(cfg: CfgNode, defaults: CfgNode, where: str = "") -> None:
    """Raise a ConfigError that names a key of `cfg` that is None and that `defaults` gives a value.

    Detectron2 merges None, and yaml's null or nothing behind a colon, into any key.
    """
    values = flatten(cfg)
    for key, default in flatten(defaults).items():
        if default is not None and key in values and values[key] is None:
            kind = "list" if isinstance(default, (list, tuple)) else type(default).__name__
            raise ConfigError(f"{where}{key} is None, or empty in yaml: give a value ({kind}).")
