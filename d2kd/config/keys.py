"""The keys of a config as a flat list."""

from typing import Any, Dict, Iterator, List, Tuple

from detectron2.config import CfgNode

from ..errors import ConfigError


def flatten(node: Dict[str, Any], prefix: str = "") -> Iterator[Tuple[str, Any]]:
    """Keys and values of a config, or of the yaml of one, the keys with dots."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed_keys(cfg: CfgNode, defaults: CfgNode) -> List[str]:
    """Keys of `cfg` whose values are not those of `defaults`."""
    before = dict(flatten(defaults))
    return [key for key, value in flatten(cfg) if key not in before or before[key] != value]


def refuse_none(cfg: CfgNode, defaults: CfgNode, where: str = "") -> None:
    """Raise a ConfigError that names a key of `cfg` that is None and that `defaults` gives a value.

    Detectron2 merges None, and yaml's null or nothing behind a colon, into any key.
    """
    values = dict(flatten(cfg))
    for key, default in flatten(defaults):
        if default is not None and key in values and values[key] is None:
            kind = "list" if isinstance(default, (list, tuple)) else type(default).__name__
            raise ConfigError(f"{where}{key} is None, or empty in yaml: give a value ({kind}).")
