"""Configs from files and options, loaded without running what they hold."""

import difflib
import os
from typing import Sequence

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from ..errors import ConfigError, check_choice
from .defaults import get_d2kd_cfg
from .keys import flatten
from .locate import resolve_config_file
from .model_zoo import zoo_folder


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
    """Merge KEY VALUE pairs of the command line into `cfg`, in place.

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
        except ValueError as error:
            raise ConfigError(f"{key}: {_type_hint(error)}") from error


def _unknown_key(cfg: CfgNode, key: str, where: str) -> ConfigError:
    keys = [name for name, _ in flatten(cfg)]
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.7)
    by_name = {name: name.rpartition(".")[2] for name in keys}
    last = key.rpartition(".")[2]
    near += [name for name in keys if by_name[name] == last and name not in near]
    hint = f" Did you mean {' or '.join(near[:6])}?" if near else ""
    return ConfigError(f"{where}{key} is no config key.{hint}")


def _type_hint(error: Exception) -> str:
    text = str(error).split("\n")[0]
    if "float" in text and "int" in text:
        text += " (write a number with a decimal point, 1.0, where one is the default)"
    return text


def merge_config_file(cfg: CfgNode, path: str, key: str) -> None:
    """Merge a yaml file into `cfg`; only files of the installed Detectron2 may hold python tags.

    Args:
        cfg: changed in place.
        path: see `resolve_config_file`.
        key: the option that named the file, for error messages.

    Raises:
        ConfigError: the file needs `yaml.unsafe_load`, is not yaml, has unknown keys, or values of
            another type.
    """
    path = resolve_config_file(path, key)
    zoo = os.path.realpath(zoo_folder())
    trusted = os.path.realpath(path).startswith(zoo + os.sep)
    try:
        cfg.merge_from_file(path, allow_unsafe=trusted)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{key}: {path} (or its _BASE_) holds a yaml tag that can run code: {error.problem}. "
            "Write the plain value instead, for example SIZES: [[32, 40, 51], [64, 81, 102]]."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: {path} is not valid yaml: {reason}") from error
    except KeyError as error:
        unknown = str(error.args[0]).rpartition(": ")[2]
        raise _unknown_key(cfg, unknown, f"{key}: {path}: ") from error
    except (ValueError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise ConfigError(f"{key}: {path}: {_type_hint(error)}") from error


def without_pretrained(cfg: CfgNode) -> CfgNode:
    """`cfg`, changed in place: the trunk's own weights are not fetched, a checkpoint follows."""
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
    return cfg


def teacher_config(cfg: CfgNode, index: int) -> CfgNode:
    """The whole config of teacher `index`, on the student's device."""
    key = f"DISTILL.TEACHER.CONFIG_FILES[{index}]"
    teacher_cfg = get_d2kd_cfg()
    merge_config_file(teacher_cfg, cfg.DISTILL.TEACHER.CONFIG_FILES[index], key)
    if teacher_cfg.MODEL.META_ARCHITECTURE == "Distiller":
        teacher_cfg.MODEL.META_ARCHITECTURE = teacher_cfg.DISTILL.STUDENT
    known = (name for name, _ in META_ARCH_REGISTRY if name != "Distiller")
    check_choice(teacher_cfg.MODEL.META_ARCHITECTURE, known, f"{key}: MODEL.META_ARCHITECTURE")
    teacher_cfg.MODEL.DEVICE = cfg.MODEL.DEVICE
    return without_pretrained(teacher_cfg)
