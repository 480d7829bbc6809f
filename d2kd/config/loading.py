"""Configs from files and options, loaded without running what they hold."""

import difflib
import os
import re
from typing import Any, Dict, Sequence, Set

import torch
from detectron2.config import CfgNode, downgrade_config, upgrade_config
from detectron2.config.compat import guess_version
from detectron2.modeling import META_ARCH_REGISTRY

from ..errors import ConfigError, MissingFileError, check_choice
from ..text import plain
from .defaults import get_d2kd_cfg
from .files import read_config
from .keys import WITH_TEACHERS, flatten, refuse_none
from .lazy import is_lazy, lazy_keys
from .locate import resolve_config_file
from .sources.find import source_keys
from .unread import say_typed_in_vain

OF_CACHE = "CACHE_DIR", "CACHE_BITS", "CACHE_GB"
_OF_AHEAD = "AHEAD", "DEVICE", "THREADS", "DEADLINE"
_MISFITS = ValueError, RecursionError, MemoryError
_MISMATCH = re.compile(r"with values \((.*) vs\. (.*)\) for config key: (\S+)")


def load_config(path: str, options: Sequence[str]) -> CfgNode:
    """The config of a file and of KEY VALUE options, on the CPU where there is no GPU.

    Raises:
        ConfigError, FileNotFoundError: see `merge_config_file` and `merge_options`.
    """
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, path, "--config-file")
    merge_options(cfg, options)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Merge KEY VALUE pairs of the command line into `cfg`, in place; OUTPUT_DIR may begin with ~.

    Raises:
        ConfigError: a key without a value, an unknown key, or a value of another type.
    """
    if len(options) % 2:
        raise ConfigError(
            f"Options are pairs KEY VALUE, but these are {len(options)}: {' '.join(options)}. "
            "Quote values with spaces, for example DISTILL.HEADS \"('PKD', 'BCKD')\"."
        )
    for key, value in zip(options[::2], options[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except (KeyError, AssertionError, AttributeError):
            raise _unknown_key(cfg, key, "") from None
        except _MISFITS as error:
            raise ConfigError(f"{key}: {_type_hint(error)}") from error
    refuse_none(cfg, get_d2kd_cfg())
    cfg.OUTPUT_DIR = os.path.expanduser(cfg.OUTPUT_DIR)
    say_typed_in_vain(cfg, options[::2])


def _unknown_key(cfg: CfgNode, key: str, where: str) -> ConfigError:
    keys = list(flatten(cfg))
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.7)
    by_name = {name: name.rpartition(".")[2] for name in keys}
    last = key.rpartition(".")[2]
    near += [name for name in keys if by_name[name] == last and name not in near]
    hint = f" Did you mean {' or '.join(near[:6])}?" if near else ""
    return ConfigError(f"{where}{key} is no config key.{hint}")


def _type_hint(error: Exception) -> str:
    if isinstance(error, (RecursionError, MemoryError)):
        return "a value is nested too deep"  # Detectron2 reads texts as Python's literals
    text = plain(str(error).split("\n")[0], 300)
    form = " (write a number with a decimal point, 1.0)" * ("float" in text and "int" in text)
    if found := _MISMATCH.search(text):
        old, new, key = found.groups()
        text = f"{new} is of another type than {old}, the value of {key} so far: write it alike"
    return text + form


def merge_config_file(cfg: CfgNode, path: str, key: str) -> Set[str]:
    """Merge a yaml file into `cfg`; see `read_config` for what it may hold.

    Args:
        cfg: changed in place.
        path: see `resolve_config_file`.
        key: the option that named the file, for error messages.

    Returns:
        The keys that it sets; none of a whole config, as a run writes it.

    Raises:
        MissingFileError: it, or a file that it starts from, does not exist.
        ConfigError: it is no yaml that can be read as data, has unknown keys, or values of another
            type.
    """
    keys = source_keys(path, key)
    if keys is None:
        name, path = path, resolve_config_file(path, key)
        keys = _read(path, name, key)
    try:
        _merge_keys(cfg, keys, path)
    except KeyError as error:
        unknown = str(error.args[0]).rpartition(": ")[2]
        raise _unknown_key(cfg, unknown, f"{key}: {path}: ") from error
    except (*_MISFITS, TypeError, AttributeError, AssertionError) as error:
        raise ConfigError(f"{key}: {path}: {_type_hint(error)}") from error
    refuse_none(cfg, get_d2kd_cfg(), f"{key}: {path}: ")
    said = set(flatten(keys))
    return said if 2 * len(said) < len(flatten(cfg)) else set()


def _read(path: str, name: str, key: str) -> Dict[str, Any]:
    try:
        return lazy_keys(path, name) if is_lazy(path) else read_config(path)
    except MissingFileError as error:
        raise MissingFileError(f"{key}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def _merge_keys(cfg: CfgNode, keys: Dict[str, Any], path: str) -> None:
    """Merge as `CfgNode.merge_from_file` does, files of Detectron2's first version among them."""
    loaded = CfgNode(keys)
    version = loaded.get("VERSION") or guess_version(loaded, path)
    if version == cfg.VERSION:
        cfg.merge_from_other_cfg(loaded)
        return
    old = downgrade_config(cfg, to_version=version)
    old.merge_from_other_cfg(loaded)
    new = upgrade_config(old)
    cfg.clear()
    cfg.update(new)


def without_pretrained(cfg: CfgNode) -> CfgNode:
    """`cfg`, changed in place: the trunk's own weights are not fetched, a checkpoint follows."""
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
    return cfg


def with_plain_teachers(cfg: CfgNode, keys: Sequence[str] = (*OF_CACHE, *_OF_AHEAD)) -> CfgNode:
    """`cfg`, changed in place: teachers keep nothing, and compute beside the student when asked.

    For what looks at a config and does not train it. Only `keys` of DISTILL.TEACHER change.
    """
    plain_ones = get_d2kd_cfg().DISTILL.TEACHER
    cfg.DISTILL.TEACHER.update({key: plain_ones[key] for key in keys})
    return cfg


def teacher_config(cfg: CfgNode, index: int) -> CfgNode:
    """The whole config of teacher `index`, on the student's device."""
    key = f"DISTILL.TEACHER.CONFIG_FILES[{index}]"
    teacher_cfg = get_d2kd_cfg()
    merge_config_file(teacher_cfg, cfg.DISTILL.TEACHER.CONFIG_FILES[index], key)
    if teacher_cfg.MODEL.META_ARCHITECTURE in WITH_TEACHERS:
        teacher_cfg.MODEL.META_ARCHITECTURE = teacher_cfg.DISTILL.STUDENT
    known = (name for name, _ in META_ARCH_REGISTRY if name not in WITH_TEACHERS)
    check_choice(teacher_cfg.MODEL.META_ARCHITECTURE, known, f"{key}: MODEL.META_ARCHITECTURE")
    teacher_cfg.MODEL.DEVICE = cfg.MODEL.DEVICE
    return without_pretrained(teacher_cfg)
