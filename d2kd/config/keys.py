"""The keys of a config as a flat list."""

from typing import Any, Dict, Iterator, List, Tuple

from detectron2.config import CfgNode


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
