"""Detectron2's LazyConfigs, of which the detector is read: Python files, and what runs write."""

import os
from pathlib import Path
from typing import Any, Dict, Set, Tuple

from detectron2.config import CfgNode, LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..errors import ConfigError, class_count_key
from ..file_io import LAZY_YAML, kind_of
from .lazy_yaml import read_lazy_yaml
from .model_zoo import zoo_config_file, zoo_folder
from .sources import vitdet

_TRUSTED: Set[str] = set()
_RESIZED = "dataloader.test.mapper.augmentations"
_FORMATS = "model.input_format", "dataloader.train.mapper.image_format"


def trust(path: str) -> None:
    """Let a LazyConfig be executed that did not come with Detectron2, and what it imports."""
    _TRUSTED.add(os.path.realpath(path))


def is_trusted(path: str) -> bool:
    """Whether a LazyConfig came with Detectron2, or was named as trusted."""
    real = Path(os.path.realpath(path))
    return real.is_relative_to(os.path.realpath(zoo_folder())) or str(real) in _TRUSTED


def is_lazy(path: str) -> bool:
    """Whether a file is a LazyConfig: a Python file, or what a run of one writes."""
    return path.endswith(".py") or kind_of(path) is LAZY_YAML


def lazy_keys(path: str, name: str) -> Dict[str, Any]:
    """What a LazyConfig says of its detector, as keys of a config.

    `MODEL.LAZY_CONFIG` names it, and the detector is built from it; the others tell what is read
    elsewhere: class, number of classes, pixels, size of test images.

    Args:
        path: the file, which is executed if it is a Python file.
        name: as it was given.

    Raises:
        ConfigError: the file is neither Detectron2's own nor trusted, or holds no detector; see
            also `read_lazy_yaml`.
    """
    try:
        return _keys(_read(path, name), name if path.endswith(".py") else path)
    except (OmegaConfBaseException, AttributeError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{name} holds no detector that can be read: {reason}.") from error


def _keys(lazy: DictConfig, name: str) -> Dict[str, Any]:
    model = lazy.model
    detector = _class_name(model)
    classes = model.get("num_classes") or OmegaConf.select(model, "roi_heads.num_classes")
    keys: Dict[str, Any] = {
        "VERSION": 2,
        "MODEL": {
            "LAZY_CONFIG": name,
            "META_ARCHITECTURE": detector,
            "PIXEL_MEAN": list(model.pixel_mean),
            "PIXEL_STD": list(model.pixel_std),
            "MASK_ON": OmegaConf.select(model, "roi_heads.mask_head") is not None,
        },
        "INPUT": {"FORMAT": _image_format(lazy), **_test_size(lazy)},
        "DATASETS": {"TRAIN": _train_sets(lazy)},
    }
    node, count = class_count_key(detector).split(".")[1:]
    keys["MODEL"][node] = {count: classes}
    if "roi_heads" in model:
        keys["MODEL"][node]["NAME"] = _class_name(model.roi_heads)
    return keys


def build_lazy(cfg: CfgNode) -> nn.Module:
    """The detector of `MODEL.LAZY_CONFIG`, without weights, on `MODEL.DEVICE`."""
    detector: nn.Module = instantiate(_model(cfg.MODEL.LAZY_CONFIG))
    return detector.to(cfg.MODEL.DEVICE)


def _model(name: str) -> DictConfig:
    prefix, _, preset = name.partition(":")
    if prefix == vitdet.PREFIX:
        return vitdet.lazy_model(preset)
    path = name if os.path.isfile(name) else str(zoo_config_file(name) or name)
    return _read(path, name).model


def _read(path: str, name: str) -> DictConfig:
    lazy = _execute(path, name) if path.endswith(".py") else read_lazy_yaml(path)
    if not {"_target_", "backbone", "pixel_mean"} <= set(lazy.get("model") or ()):
        raise ConfigError(f"{name} holds no detector: a LazyConfig with `model` is meant.")
    return lazy


def _execute(path: str, name: str) -> DictConfig:
    if not is_trusted(path):
        raise ConfigError(
            f"{name} is a Python file, which would be executed: if you know who wrote it, add "
            f"--trust-config {name}."
        )
    try:
        return LazyConfig.load(path)
    except Exception as error:
        raise ConfigError(f"{name} cannot be executed: {type(error).__name__}: {error}.") from error


def _class_name(model: DictConfig) -> str:
    target = model["_target_"]
    return target.rpartition(".")[2] if isinstance(target, str) else target.__name__


def _image_format(lazy: DictConfig) -> str:
    found = (OmegaConf.select(lazy, key) for key in _FORMATS)
    return next((text for text in found if text), "BGR")


def _train_sets(lazy: DictConfig) -> Tuple[str, ...]:
    names = OmegaConf.select(lazy, "dataloader.train.dataset.names") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _test_size(lazy: DictConfig) -> Dict[str, int]:
    for step in OmegaConf.select(lazy, _RESIZED) or ():
        if isinstance(step.get("short_edge_length"), int) and step.get("max_size"):
            return {"MIN_SIZE_TEST": step.short_edge_length, "MAX_SIZE_TEST": step.max_size}
    return {}
