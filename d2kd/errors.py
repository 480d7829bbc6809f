"""Errors and warnings, as a user should see them."""

import difflib
import errno
import logging
import warnings
from typing import Iterable, List

_CLASS_SECTIONS = {
    "RetinaNet": "RETINANET",
    "FCOS": "FCOS",
    "ATSS": "ATSS",
    "AutoAssign": "AUTOASSIGN",
    "DDOD": "DDOD",
    "GFL": "GFL",
    "RepPoints": "REPPOINTS",
}
_DEFAULT = "DefaultAnchorGenerator"


def class_count_key(detector: str) -> str:
    """The config key of the number of classes of a meta-architecture."""
    return f"MODEL.{_CLASS_SECTIONS.get(detector, 'ROI_HEADS')}.NUM_CLASSES"


def anchor_keys(detector: str, generator: str = _DEFAULT) -> List[str]:
    """The config keys of a meta-architecture's anchors, [] if strides alone place its cells.

    Args:
        detector: its name.
        generator: MODEL.ANCHOR_GENERATOR.NAME; with the default one FCOS reads no other key.
    """
    if detector in ("AutoAssign", "RepPoints") or (detector == "FCOS" and generator == _DEFAULT):
        return []
    return ["MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"]


class ConfigError(ValueError):
    """A config key, or what it points to, is wrong; the message names the key and what to do."""


class NoAdapterError(TypeError):
    """No adapter takes a detector; the message says why."""


class RunError(RuntimeError):
    """A run cannot go on; the message says why, and how it goes on."""


class MissingFileError(ConfigError, FileNotFoundError):
    """A config key names a file that does not exist."""


_ELSEWHERE = "name another place, or change its permissions"
_FULL = "free space there, or write elsewhere"
_ADVICE = {
    errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EACCES: _ELSEWHERE, errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENAMETOOLONG: "give a shorter name", errno.EISDIR: "a file is needed, name one",
    errno.ENOTDIR: "a file is where a folder is needed", errno.ENOENT: "check the path",
    errno.EMFILE: "raise ulimit -n, or lower DATALOADER.NUM_WORKERS",
}  # fmt: skip


def os_reason(error: OSError) -> str:
    """What the system says, and what to do."""
    said = error.strerror or str(error)
    return f"{said} ({_ADVICE[error.errno]})" if error.errno in _ADVICE else said


def message(error: BaseException) -> str:
    """What to show of an error: of the system's own, the file, the reason and what to do."""
    if not isinstance(error, OSError) or not error.errno:
        return str(error)
    return f"{f'{error.filename}: ' if error.filename else ''}{os_reason(error)}."


def check_choice(value: str, choices: Iterable[str], key: str) -> None:
    """Raise a ConfigError that names `key` and the nearest choices if `value` is not a choice."""
    choices = sorted(choices)
    if value not in choices:
        folded = {choice.casefold(): choice for choice in choices}
        close = difflib.get_close_matches(value.casefold(), folded, n=3, cutoff=0.4)
        near = [folded[choice] for choice in close]
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigError(f"{key}: unknown {value!r}.{hint} Known: {', '.join(choices)}.")


def ignore_warnings_of_dependencies() -> None:
    """Ignore what PyTorch and Detectron2 say to their developers.

    The user of a run can do nothing about it.
    """
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"(torch|detectron2|fvcore|timm)"
    )
    warnings.filterwarnings("ignore", category=UserWarning, module="detectron2")
    warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # a compiler, no GPU
