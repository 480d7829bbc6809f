"""The keys that are to blame where Detectron2's own code fails over a config."""

import contextlib
import re
import traceback
from types import FrameType
from typing import Any, Iterator, List

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from torch import nn

from ..errors import ConfigError, class_count_key
from .defaults import get_d2kd_cfg
from .keys import changed_keys, flatten
from .lazy import build_lazy


def construct(cfg: CfgNode, whose: str = "") -> nn.Module:
    """Build the plain detector of a config.

    Args:
        cfg: its MODEL.META_ARCHITECTURE is no Distiller.
        whose: what names the config, for errors, such as "DISTILL.TEACHER.CONFIG_FILES[0]: ".

    Raises:
        ConfigError: it cannot be built; names the key.
    """
    with naming_keys(cfg, "MODEL", whose):
        try:
            return build_lazy(cfg) if cfg.MODEL.LAZY_CONFIG else build_model(cfg)
        except KeyError as error:
            if text := _missing_level(cfg, str(error.args[0])):
                raise ConfigError(whose + text) from error
            raise


@contextlib.contextmanager
def naming_keys(cfg: CfgNode, section: str, whose: str = "") -> Iterator[None]:
    """Name the keys that are not Detectron2's defaults, where its own code fails over them.

    Those that hold what the error speaks of, or else those of the part that failed, come first.
    Errors of d2kd keep their text; those of files, numbers, memory and processes pass.

    Raises:
        ConfigError: from what went wrong inside.
    """
    try:
        yield
    except ConfigError:
        raise
    except (AssertionError, LookupError, TypeError, AttributeError, ArithmeticError,
            NotImplementedError, RuntimeError, ValueError) as error:  # fmt: skip
        if _is_of_the_run(error):
            raise
        if _is_ours(error):
            raise ConfigError(whose + str(error)) from error
        reason = str(error).strip().split("\n")[0] or "no reason given"
        raise ConfigError(
            f"{whose}Detectron2 stopped with {type(error).__name__}: {reason}. "
            f"{_name(cfg, section, error)}"
        ) from error


def _name(cfg: CfgNode, section: str, error: Exception) -> str:
    changed = changed_keys(cfg, get_d2kd_cfg())
    values = flatten(cfg)
    words = [word for pair in re.findall(r"'([^']+)'|\"([^\"]+)\"", str(error)) for word in pair]
    if named := [key for key in changed if _strings(values[key]) & set(filter(None, words))]:
        return f"{', '.join(named)} is the likely cause."
    text = f"A value in {section} is the likely cause"
    if near := _of_failed_part(changed, error):
        text += f", above all {', '.join(near)}"
    return f"{text}; these keys are not at their defaults: {', '.join(changed)}."


def _strings(value: Any) -> set[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return {x for x in values if isinstance(x, str) and x}


def _of_failed_part(keys: List[str], error: Exception) -> List[str]:
    """Keys of the section that is called as a module is in which the error was raised."""
    for frame in reversed(_frames(error)):
        parts = [x.rstrip("s") for x in str(frame.f_globals.get("__name__", "")).split(".")[1:]]
        for part in reversed(parts):
            found = [key for key in keys if _section(key).endswith(part)]
            if found:
                return found
    return []


def _section(key: str) -> str:
    return (key.split(".")[-2:-1] or [""])[0].lower().rstrip("s")


def _frames(error: Exception) -> List[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _missing_level(cfg: CfgNode, level: str) -> str:
    """What to say of a level in IN_FEATURES that the backbone does not give; "" if it is not."""
    detector = class_count_key(cfg.MODEL.META_ARCHITECTURE).split(".")[1]
    sections = ("RPN", "ROI_HEADS") if detector == "ROI_HEADS" else (detector,)
    keys = [x for x in sections if level in cfg.MODEL[x].IN_FEATURES]
    with contextlib.suppress(Exception):  # then it is not about levels
        given = list(build_backbone(cfg).output_shape())
        if keys and level not in given:
            key = f"MODEL.{keys[0]}.IN_FEATURES"
            return (
                f"{key} names {level!r}, which {cfg.MODEL.BACKBONE.NAME} does not give: it gives "
                f"{', '.join(given)}. Set {key} to some of these; MODEL.FPN.TOP_BLOCK adds levels "
                "above the last one of d2kd's own pyramids."
            )
    return ""


def _is_of_the_run(error: Exception) -> bool:
    """About numbers, images, memory or processes, not about the config."""
    names = "FloatingPointError", "BadImageError", "OutOfMemoryError"
    texts = "out of memory", "DataLoader worker", "Connection closed", "gloo", "NCCL"
    return type(error).__name__ in names or any(text in str(error) for text in texts)


def _is_ours(error: Exception) -> bool:
    """Raised in a module of d2kd, and about a config key."""
    frames = _frames(error)
    module = frames[-1].f_globals.get("__name__", "") if frames else ""
    names_a_key = re.search(r"[A-Z][A-Z_]{2,}", str(error))
    return isinstance(error, ValueError) and module.startswith("d2kd.") and bool(names_a_key)
