"""What --teacher switches on where nothing else is said, by the kinds of student and teacher."""

import logging
from typing import Any, Collection, Dict, Mapping, Tuple

from detectron2.config import CfgNode

from ..errors import class_count_key
from .keys import flatten
from .loading import merge_options, teacher_config

SHARE = 0.5  # of the gradient norm, of all methods together
PERIOD = 10  # iterations from one measurement of the shares to the next
_SHARES = "DISTILL.BALANCE.SHARES"
_TWO_STAGE = "GeneralizedRCNN"


def default_methods(cfg: CfgNode, teacher: CfgNode) -> Tuple[str, ...]:
    """Methods for a student and its first teacher, by the four kinds of pairs.

    One dense family: CrossKD and PKD. Two-stage: PKD and RoIKD. Two dense families, dense with
    two-stage, or other numbers of classes: PKD, which compares features alone.
    """
    student = cfg.DISTILL.STUDENT
    classes = {dict(flatten(x))[class_count_key(student)] for x in (cfg, teacher)}
    if teacher.MODEL.META_ARCHITECTURE != student or len(classes) > 1:
        return ("PKD",)
    return ("PKD", "RoIKD") if student == _TWO_STAGE else ("CrossKD", "PKD")


def choose_distillation(cfg: CfgNode, typed: Collection[str], begun: Mapping[str, Any]) -> None:
    """Choose how a plain config is distilled where it was not said, in place, and say it.

    The methods hold `SHARE` of the gradient in equal parts, instead of their published weights,
    and the student starts from the teacher's FPN, and from its head where that is of one kind. The
    teacher's maps have the memory order of the student's.

    Args:
        cfg: of a distillation, with what was typed.
        typed: the keys that were typed, which stay.
        begun: of a distillation that goes on: its keys, which stay too; those that its version did
            not have keep their defaults.
    """
    teacher, now = teacher_config(cfg, 0), dict(flatten(cfg))
    alike = teacher.MODEL.META_ARCHITECTURE == cfg.DISTILL.STUDENT
    keys: Dict[str, Any] = {"DISTILL.INIT_FROM_TEACHER": "neck+head" if alike else "neck"}
    if cfg.MODEL.CHANNELS_LAST:
        keys["DISTILL.TEACHER.CHANNELS_LAST"] = True
    heads = cfg.DISTILL.HEADS
    if not heads:
        heads = keys["DISTILL.HEADS"] = begun.get("DISTILL.HEADS") or default_methods(cfg, teacher)
    if "CrossKD" in heads:
        keys["DISTILL.CrossKD.PROJECT"] = True
    weighed = any(f"DISTILL.{head}.WEIGHT" in typed for head in heads)
    off = _SHARES in typed and not now[_SHARES]
    if not (weighed or off or cfg.DISTILL.COMPILE):
        keys[_SHARES] = (round(SHARE / len(heads), 4),)
        keys["DISTILL.BALANCE.PERIOD"] = PERIOD
    if begun.get("DISTILL.HEADS"):
        keys = {key: begun.get(key, now[key]) for key in keys}
    chosen = {key: value for key, value in keys.items() if key not in typed}
    for key, value in chosen.items():
        merge_options(cfg, [key, value])
    said = " ".join(f"{key} {value!r}" for key, value in chosen.items())
    logging.getLogger(__name__).info("By --teacher: %s", said)
