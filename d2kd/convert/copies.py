"""One detector of a file that holds several: moving averages, teachers beside students."""

from collections import Counter
from typing import Dict, List, Tuple

from torch import Tensor

from ..errors import ConfigError
from ..text import plain

_ROOT = "backbone."  # every detector of mmdetection has one
_PREFERRED = ("student", "architecture", "model", "module", "detector")  # parts of a prefix
State = Dict[str, Tensor]


def one_detector(state: State, prefix: str = "") -> Tuple[State, str]:
    """Take one detector, without its prefix.

    Without a choice it is the plain one, or the student: where names come plain and once more as
    "ema_backbone_conv1_weight" or "teacher.backbone.conv1.weight", the plain ones; of "student."
    (or "architecture.") and "teacher." the former.

    Args:
        state: tensors by name.
        prefix: what precedes "backbone.", such as "teacher."; "" for no choice.

    Returns:
        Tuple: its tensors, and what was left out in words ("" if nothing was).

    Raises:
        ConfigError: no such prefix, or several of which none is the student's.
    """
    prefixes = _prefixes(state)
    chosen = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
    if prefix and chosen not in prefixes:
        raise ConfigError(f"--prefix {prefix}: no detector of the file has it. {_listed(prefixes)}")
    if not prefix and prefixes:
        chosen = _preferred(prefixes)
    others = tuple(other for other in prefixes if other and not chosen.startswith(other))
    averages = {f"ema_{name.replace('.', '_')}": x.shape for name, x in state.items()}
    kept, left = {}, []
    for name, tensor in state.items():
        if name.startswith(chosen) and not name.startswith(others):
            kept[name.removeprefix(chosen)] = tensor
        else:
            left.append(name)
    # mmdetection 2's EMAHook keeps a copy of each tensor, with underscores for dots
    left += [name for name in kept if averages.get(name) == kept[name].shape]
    kept = {k: v for k, v in kept.items() if averages.get(k) != v.shape and not _is_pixels(k)}
    return kept, _described(left)


def _is_pixels(name: str) -> bool:
    """Mean and std of mmdetection 3, which are taken from its config."""
    return name.startswith("data_preprocessor.")


def _prefixes(state: State) -> List[str]:
    """What precedes "backbone." in names, in order."""
    places = {name: f".{name}".find(f".{_ROOT}") for name in state}
    return list(dict.fromkeys(name[:at] for name, at in places.items() if at >= 0))


def _preferred(prefixes: List[str]) -> str:
    if "" in prefixes or len(prefixes) == 1:
        return "" if "" in prefixes else prefixes[0]
    for part in _PREFERRED:
        found = [prefix for prefix in prefixes if part in prefix.split(".")]
        if len(found) == 1:
            return found[0]
    raise ConfigError(f"It holds several detectors: choose one with --prefix. {_listed(prefixes)}")


def _listed(prefixes: List[str]) -> str:
    names = ", ".join(plain(prefix, 60) or '"" (none)' for prefix in prefixes[:10])
    return f"Its prefixes: {names or 'none'}."


def _described(names: List[str]) -> str:
    groups = Counter("ema_" if x.startswith("ema_") else f"{x.split('.')[0]}." for x in names)
    listed = [f"{count} tensors of {plain(group, 60)}" for group, count in groups.most_common(10)]
    return ", ".join(listed)
