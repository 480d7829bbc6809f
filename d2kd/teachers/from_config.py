"""Teachers from a config: built, filled from a checkpoint, with their cache."""

import logging
import os
from pathlib import Path
from typing import Tuple

from detectron2.config import CfgNode

from ..adapters import build_adapter
from ..checkpoint import load_detector, run_checkpoint
from ..config.loading import teacher_config
from ..config.naming import construct
from ..config.sources.find import published_as, published_weights
from ..errors import ConfigError, NoAdapterError
from .cache import OutputCache
from .classes import detector_classes
from .own_size import own_size_adapter
from .store import TensorStore
from .teacher import Teacher


def build_teacher(cfg: CfgNode, index: int = 0) -> Teacher:
    """Build and fill teacher `index` of DISTILL.TEACHER.

    The config may be plain, or itself a distillation config, whose student is then meant.

    Raises:
        FileNotFoundError: no such config or checkpoint.
        ValueError: unsafe or malformed yaml, unknown detector, or the checkpoint does not fill it.
    """
    options = cfg.DISTILL.TEACHER
    teacher_cfg = teacher_config(cfg, index)
    key = f"DISTILL.TEACHER.CONFIG_FILES[{index}]: "
    detector = construct(teacher_cfg, key)
    try:
        build_adapter(detector)  # what has none is refused before its weights are downloaded
    except NoAdapterError as error:
        raise ConfigError(f"{key}{options.CONFIG_FILES[index]} cannot teach: {error}") from error
    weights, said = _checkpoint(cfg, index, teacher_cfg)
    load_detector(detector, weights, f"DISTILL.TEACHER.WEIGHTS[{index}]")
    logging.getLogger(__name__).info(
        "Teacher %d: %s from %s, weights %s",
        index, teacher_cfg.MODEL.META_ARCHITECTURE, options.CONFIG_FILES[index], said,
    )  # fmt: skip
    if teacher_cfg.QUANTIZE.ENABLED:
        logging.getLogger(__name__).info(
            "Teacher %d: it was trained with QUANTIZE.ENABLED, and teaches as its float student.",
            index,
        )
    if text := published_as(options.CONFIG_FILES[index]):
        logging.getLogger(__name__).info("Teacher %d: %s", index, text)
    teacher = Teacher(
        detector,
        input_format=teacher_cfg.INPUT.FORMAT,
        precision=options.PRECISION,
        channels_last=options.CHANNELS_LAST,
    )
    teacher.weights = weights
    count, name = teacher.adapter.spec().num_classes, options.CONFIG_FILES[index]
    teacher.classes = detector_classes(name, teacher_cfg, weights, count)
    if options.SIZE == "own":
        teacher.adapter = own_size_adapter(teacher.adapter, cfg, teacher_cfg)
        teacher.size = teacher.adapter.size
    if options.CACHE_DIR:
        teacher.cache = build_cache(cfg, teacher, teacher_cfg)
    return teacher


def build_cache(cfg: CfgNode, teacher: Teacher, teacher_cfg: CfgNode) -> OutputCache:
    """The cache in DISTILL.TEACHER.CACHE_DIR, of which each teacher may fill a share on each rank.

    Raises:
        ValueError: the folder cannot be written to.
    """
    options = cfg.DISTILL.TEACHER
    model = teacher_cfg.MODEL.clone()
    model.WEIGHTS = ""
    formats = f"{cfg.INPUT.FORMAT} {teacher_cfg.INPUT.FORMAT}"
    size = teacher.size or ""
    settings = f"{options.PRECISION} {options.CHANNELS_LAST} {formats} {size}{model.dump()}"
    folder, limit = Path(options.CACHE_DIR).expanduser(), int(options.CACHE_GB * 1e9)
    store = TensorStore(folder, limit, len(options.CONFIG_FILES))
    return OutputCache(store, teacher.adapter, settings, half=options.CACHE_BITS == 16)


def teacher_weights(cfg: CfgNode, index: int) -> str:
    """Path or address of the checkpoint of teacher `index`; it is not read."""
    return _checkpoint(cfg, index, teacher_config(cfg, index))[0]


def _checkpoint(cfg: CfgNode, index: int, teacher_cfg: CfgNode) -> Tuple[str, str]:
    given, name = cfg.DISTILL.TEACHER.WEIGHTS, cfg.DISTILL.TEACHER.CONFIG_FILES[index]
    path = given[index] if index < len(given) else ""
    if not path and os.path.isdir(name):
        return run_checkpoint(name)
    path = path or published_weights(name) or teacher_cfg.MODEL.WEIGHTS
    if not path:
        raise ValueError(
            f"DISTILL.TEACHER.WEIGHTS[{index}] is empty and {name} sets no MODEL.WEIGHTS. Give the "
            "teacher's checkpoint: a file, a URL or a detectron2:// address."
        )
    return path, path
