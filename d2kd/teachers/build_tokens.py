"""Building a `TokenLearner` from a config, with every check that needs no image."""

import logging
from typing import Any, Dict

from detectron2.config import CfgNode
from torch import nn

from ..data.catalog import dataset_num_classes
from ..errors import ConfigError
from .class_map import known_pairs, match_classes
from .classes import trained_classes
from .from_config import build_teacher


def build_token_learner(cfg: CfgNode) -> Dict[str, Any]:
    """Arguments of `TokenLearner`: the only teacher, and the options of DISTILL.TOKENS.

    Raises:
        ConfigError: any option that cannot work; the message names its key.
        FileNotFoundError: the teacher's config or checkpoint does not exist.
    """
    _check(cfg)
    teacher = build_teacher(cfg)
    _check_targets(cfg, teacher.detector)
    theirs = teacher.classes
    ours = trained_classes(cfg) if theirs else []
    matched = match_classes(ours, theirs, known_pairs(cfg, theirs))
    if matched:
        logging.getLogger(__name__).warning("Tokens: %s.", matched.text(ours, theirs))
    return {
        "teacher": teacher,
        "number": cfg.DISTILL.TOKENS.NUMBER,
        "dice": cfg.DISTILL.TOKENS.DICE,
        "input_format": cfg.INPUT.FORMAT,
        "class_map": matched,
        "name": cfg.DISTILL.TEACHER.CONFIG_FILES[0],
    }


def _check(cfg: CfgNode) -> None:
    names = cfg.DISTILL.TEACHER.CONFIG_FILES
    wrong = {
        "DISTILL.TEACHER.CONFIG_FILES": len(names) != 1 and "name one teacher",
        "MODEL.WEIGHTS": cfg.MODEL.WEIGHTS and "name the teacher's with --teacher-weights",
        "DATASETS.TEST": cfg.DATASETS.TEST and "set it to (), tokens are not evaluated",
        "DISTILL.TEACHER.AHEAD": cfg.DISTILL.TEACHER.AHEAD and "set it to 0, its losses are needed",
        "DISTILL.TEACHER.PRECISION": cfg.DISTILL.TEACHER.PRECISION == "auto" and "choose one",
        "SOLVER.EMA.DECAY": cfg.SOLVER.EMA.DECAY and "set it to 0, tokens are not averaged",
        "QUANTIZE.ENABLED": cfg.QUANTIZE.ENABLED and "set it to False, the teacher stays as it is",
    }
    for key, remedy in wrong.items():
        if remedy:
            raise ConfigError(f"{key}: where tokens are learnt, {remedy}.")


def _check_targets(cfg: CfgNode, teacher: nn.Module) -> None:
    """Masks and keypoints must be read where the teacher's losses are of them."""
    heads = getattr(teacher, "roi_heads", None)
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if getattr(heads, key.lower(), False) and not cfg.MODEL[key]:
            raise ConfigError(
                f"MODEL.{key} is False, but the teacher learns these, and tokens are learnt by its "
                f"losses: type MODEL.{key} True, with data that have them, or take another teacher."
            )


def check_data(cfg: CfgNode, num_classes: int) -> None:
    """Raise a ConfigError unless the data have the classes that a `TokenLearner` expects."""
    for name in cfg.DATASETS.TRAIN:
        if (count := dataset_num_classes(name, "DATASETS.TRAIN")) != num_classes:
            raise ConfigError(
                f"DATASETS.TRAIN: {name!r} has {count} classes, but {num_classes} are expected by "
                f"{cfg.DISTILL.TEACHER.CONFIG_FILES[0]}, whose names are not known: tokens are "
                "learnt on data with the teacher's classes."
            )
