"""What --teacher switches on where nothing else is said, by the kinds of student and teacher."""

import logging
from typing import Any, Collection, Dict, List, Mapping, Tuple

from detectron2.config import CfgNode

from ..errors import class_count_key
from .loading import merge_options, teacher_config

SHARE = 0.5  # of the gradient norm, of all methods together
PERIOD = 10  # iterations from one measurement of the shares to the next
_TWO_STAGE = "GeneralizedRCNN"


def default_methods(cfg: CfgNode) -> Tuple[str, ...]:
    """Methods for a student and teacher 0, by the four kinds of pairs.

    One dense family: CrossKD and PKD. Two-stage: PKD and RoIKD. Two dense families, dense with
    two-stage, or other numbers of classes: PKD, which compares features alone.
    """
    teacher, student = teacher_config(cfg, 0), cfg.DISTILL.STUDENT
    if not _one_family(cfg) or _classes(teacher, student) != _classes(cfg, student):
        return ("PKD",)
    return ("PKD", "RoIKD") if student == _TWO_STAGE else ("CrossKD", "PKD")


def _one_family(cfg: CfgNode) -> bool:
    return bool(teacher_config(cfg, 0).MODEL.META_ARCHITECTURE == cfg.DISTILL.STUDENT)


def _classes(cfg: CfgNode, detector: str) -> int:
    node: Any = cfg
    for name in class_count_key(detector).split("."):
        node = node[name]
    return int(node)


def choose_distillation(cfg: CfgNode, typed: Collection[str], begun: Mapping[str, Any]) -> None:
    """Choose how a plain config is distilled where it was not said, in place, and say it.

    The methods hold `SHARE` of the gradient in equal parts, instead of their published weights,
    and the student starts from the teacher's FPN, and from its head where that is of one kind.

    Args:
        cfg: of a distillation, with what was typed.
        typed: the keys that were typed, which stay.
        begun: of a run that goes on: its keys, which stay too.
    """
    inherited = "neck+head" if _one_family(cfg) else "neck"
    keys: Dict[str, Any] = {"DISTILL.INIT_FROM_TEACHER": inherited}
    heads = cfg.DISTILL.HEADS
    if not heads:
        heads = keys["DISTILL.HEADS"] = begun.get("DISTILL.HEADS") or default_methods(cfg)
    if "CrossKD" in heads:
        keys["DISTILL.CrossKD.PROJECT"] = True
    weighed = any(f"DISTILL.{head}.WEIGHT" in typed for head in heads)
    if not weighed and not cfg.DISTILL.COMPILE:
        keys["DISTILL.BALANCE.SHARES"] = (round(SHARE / len(heads), 4),)
        keys["DISTILL.BALANCE.PERIOD"] = PERIOD
    chosen: List[str] = []
    for key, value in keys.items():
        if key not in typed:
            merge_options(cfg, [key, begun.get(key, value)])
            chosen += [key, repr(begun.get(key, value))]
    logging.getLogger(__name__).info("By --teacher: %s", " ".join(chosen))
