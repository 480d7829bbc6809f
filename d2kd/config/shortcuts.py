"""Distillation, and data of one's own, switched on from the command line for any plain config."""

import logging
from pathlib import Path
from typing import Collection, Dict, Sequence

from detectron2.config import CfgNode

from ..data.folder import UNDIVIDED, Split, read_dataset_folder
from ..errors import ConfigError, class_count_key
from ..text import plain
from .defaults import get_d2kd_cfg
from .keys import WITH_TEACHERS
from .loading import merge_config_file

_CHECK_IMAGES = 100  # that a teacher is evaluated on; seconds for small detectors


def distil(
    cfg: CfgNode,
    teachers: Sequence[str],
    weights: Sequence[str],
    methods: Sequence[str],
    said: Collection[str] = (),
    offline: bool = False,
) -> None:
    """Turn the config of a plain detector into one that distils it, in place.

    Args:
        cfg: of a detector, or already of a distillation, whose student and options then stay.
        teachers: configs, model-zoo names or folders of runs.
        weights: their checkpoints; those of the zoo or the run where there are fewer.
        methods: names of heads, also several with commas; those of the config if none.
        said: the keys that were written, which stay.
        offline: a file of detections teaches, so that no teacher is needed.

    Raises:
        ConfigError: a teacher is missing.
    """
    if not teachers and not cfg.DISTILL.TEACHER.CONFIG_FILES and not offline:
        raise ConfigError(
            "--distill and --teacher-weights need --teacher: a config, a model-zoo name such as "
            "COCO-Detection/retinanet_R_101_FPN_3x.yaml, or the folder of a run; or "
            "DISTILL.SetKD.OFFLINE, a file of its detections."
        )
    if cfg.MODEL.META_ARCHITECTURE == "TokenLearner":
        raise ConfigError(
            "--teacher: CONFIG learns tokens, and names the teacher itself; for another one type "
            "d2kd train TEACHER --tokens."
        )
    if cfg.MODEL.META_ARCHITECTURE != "Distiller":
        cfg.DISTILL.STUDENT = cfg.MODEL.META_ARCHITECTURE
        cfg.MODEL.META_ARCHITECTURE = "Distiller"
    if teachers:
        cfg.DISTILL.TEACHER.CONFIG_FILES = tuple(teachers)
        cfg.DISTILL.TEACHER.WEIGHTS = tuple(weights) or ("",)
        if "DISTILL.TEACHER.CHECK_IMAGES" not in said:
            cfg.DISTILL.TEACHER.CHECK_IMAGES = cfg.DISTILL.TEACHER.CHECK_IMAGES or _CHECK_IMAGES
    elif weights:
        cfg.DISTILL.TEACHER.WEIGHTS = tuple(weights)
    named = tuple(name.strip() for text in methods for name in text.split(",") if name.strip())
    cfg.DISTILL.HEADS = named or tuple(cfg.DISTILL.HEADS)


def learn_tokens(
    cfg: CfgNode, teacher: str, weights: Sequence[str], others: Sequence[str] = ()
) -> None:
    """Turn the config of a trained detector into one that learns MasKD's tokens of it, in place.

    Images, data and batch stay those of the detector's training.

    Args:
        cfg: of the detector.
        teacher: the file, name or folder of a run that it is from.
        weights: its checkpoint; that of the zoo or the run if there is none.
        others: words for a distillation, of which there must be none.

    Raises:
        ConfigError: there are some, or the config learns tokens already.
    """
    if others or cfg.MODEL.META_ARCHITECTURE == "TokenLearner":
        raise ConfigError(
            "--tokens: CONFIG is the teacher: leave --teacher and --distill out, and leave out "
            "--tokens where CONFIG is of a run that learns tokens."
        )
    distilled = cfg.MODEL.META_ARCHITECTURE in WITH_TEACHERS
    detector = cfg.DISTILL.STUDENT if distilled else cfg.MODEL.META_ARCHITECTURE
    cfg.DISTILL, cfg.MODEL.LAZY_CONFIG = get_d2kd_cfg().DISTILL, ""
    merge_config_file(cfg, "tokens/Base-tokens.yaml", "--tokens")
    cfg.DISTILL.STUDENT = detector
    cfg.DISTILL.TEACHER.CONFIG_FILES = (teacher,)
    cfg.DISTILL.TEACHER.WEIGHTS = tuple(weights) or ("",)


def use_data(cfg: CfgNode, folder: Path) -> None:
    """Train on the split "train" of a data set's folder and test on "val", or on "test".

    Tokens are not tested. DATASETS and the number of classes are set, in place.

    Raises:
        ConfigError: see `read_dataset_folder`; or there is nothing to train on.
    """
    splits = _splits_of(folder)
    if "train" not in splits:
        raise ConfigError(f"--data {folder} has no split 'train', only {', '.join(splits)}.")
    _set_data(cfg, folder, splits)


def use_test_data(cfg: CfgNode, folder: Path) -> None:
    """Test on the split "val" of a data set's folder, or on "test"; it needs no other.

    Raises:
        ConfigError: see `read_dataset_folder`.
    """
    _set_data(cfg, folder, _splits_of(folder))


def _splits_of(folder: Path) -> Dict[str, Split]:
    try:
        return read_dataset_folder(folder)
    except ConfigError as error:
        raise type(error)(f"--data: {error}") from None


def _set_data(cfg: CfgNode, folder: Path, splits: Dict[str, Split]) -> None:
    name = folder.resolve().name
    cfg.DATASETS.CUSTOM = [
        [f"{name}_{split}", str(x.json), str(x.images)] for split, x in splits.items()
    ]
    tested = [split for split in ("val", "test") if split in splits][:1]
    if not tested:
        logging.getLogger(__name__).warning(
            "--data %s has no split 'val' or 'test': %s.", plain(folder), UNDIVIDED
        )
    cfg.DATASETS.TRAIN = tuple(f"{name}_{split}" for split in splits if split == "train")
    is_tested = cfg.MODEL.META_ARCHITECTURE != "TokenLearner"
    cfg.DATASETS.TEST = tuple(f"{name}_{split}" for split in tested if is_tested)
    detector = cfg.DISTILL.STUDENT or cfg.MODEL.META_ARCHITECTURE
    count = len(splits.get("train", next(iter(splits.values()))).classes)
    for key in {class_count_key(detector), "MODEL.RETINANET.NUM_CLASSES"}:
        cfg.merge_from_list([key, count])
