"""What --teacher switches on where nothing else is said, by the kinds of student and teacher."""

import logging
from typing import Any, Collection, Dict, List, Mapping, Tuple

from detectron2.config import CfgNode

from ..errors import anchor_keys, class_count_key
from .defaults import get_d2kd_cfg
from .keys import changed_keys, flatten
from .loading import merge_options, teacher_config

SHARE = 0.5  # of the gradient norm, of all methods together
PERIOD = 10  # iterations from one measurement of the shares to the next
_SHARES = "DISTILL.BALANCE.SHARES"
_CHOSEN = ("VFM",)  # methods that have no share unless it is given
_TWO_STAGE = "GeneralizedRCNN"
_BOX_HEAD = "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"
_BY_REGION = "StandardROIHeads", "CascadeROIHeads"


def default_methods(cfg: CfgNode, teacher: CfgNode) -> Tuple[str, ...]:
    """Methods for a student and its first teacher, by the four kinds of pairs.

    One dense family: CrossKD and PKD. Two-stage: PKD and RoIKD. Two dense families, dense with
    two-stage, predictions that cannot be compared, or a student without labels, which CrossKD
    reads: PKD, which compares features alone.
    """
    student = cfg.DISTILL.STUDENT
    if student == "AutoAssign" and not cfg.MODEL.AUTOASSIGN.HARD_LABELS:
        return ("PKD",)
    predicted = [_predicted(x, student) for x in (cfg, teacher)]
    alike = teacher.MODEL.META_ARCHITECTURE == student and predicted[0] == predicted[1]
    if not alike or not predicted[0]:
        return ("PKD",)
    return ("PKD", "RoIKD") if student == _TWO_STAGE else ("CrossKD", "PKD")


def _predicted(cfg: CfgNode, detector: str) -> List[Any]:
    """What must be alike where predictions are compared; nothing of RoI heads that RoIKD cannot."""
    values, count = flatten(cfg), class_count_key(detector)
    node = count.removesuffix("NUM_CLASSES")
    if detector == _TWO_STAGE:
        stock = values["MODEL.ROI_HEADS.NAME"] in _BY_REGION
        return [values[count]] if stock and not any(values[key] for key in _BOX_HEAD) else []
    anchors = anchor_keys(detector, cfg.MODEL.ANCHOR_GENERATOR.NAME)
    keys = (count, f"{node}IN_FEATURES", f"{node}REG_MAX", *anchors)
    return [values.get(key) for key in keys]


def choose_distillation(cfg: CfgNode, said: Collection[str], begun: Mapping[str, Any]) -> None:
    """Choose how a plain config is distilled where it was not said, in place, and say it.

    The methods hold `SHARE` of the gradient in equal parts, instead of their published weights,
    and the student starts from the teacher's FPN, and from its head where that is of one kind. The
    teacher's maps have the memory order of the student's.

    Args:
        cfg: of a distillation, with what was typed.
        said: the keys that were typed or written, which stay, as do all that are not defaults.
        begun: of a distillation that goes on: its keys, which stay too; those that its version did
            not have keep their defaults.
    """
    now, heads = flatten(cfg), cfg.DISTILL.HEADS
    said = {*said, *changed_keys(cfg, get_d2kd_cfg())}
    keys: Dict[str, Any] = {}
    methods: Tuple[str, ...] = ("SetKD",)  # which takes a file of detections for a teacher
    if cfg.DISTILL.TEACHER.CONFIG_FILES:
        teacher = teacher_config(cfg, 0)
        alike = teacher.MODEL.META_ARCHITECTURE == cfg.DISTILL.STUDENT
        keys["DISTILL.INIT_FROM_TEACHER"] = "neck+head" if alike else "neck"
        methods = default_methods(cfg, teacher)
        if cfg.MODEL.CHANNELS_LAST:
            keys["DISTILL.TEACHER.CHANNELS_LAST"] = True
    if not heads:
        heads = keys["DISTILL.HEADS"] = begun.get("DISTILL.HEADS") or methods
    if "CrossKD" in heads:
        keys["DISTILL.CrossKD.PROJECT"] = True
    weights = [_weight(head) for head in heads]
    if not (why := _unbalanced(weights, now, said)):
        keys[_SHARES] = (round(SHARE / len(heads), 4),)
        keys["DISTILL.BALANCE.PERIOD"] = PERIOD
    if begun.get("DISTILL.HEADS"):
        keys = {key: begun.get(key, now[key]) for key in keys}
    chosen = {key: value for key, value in keys.items() if key not in said}
    for key, value in chosen.items():
        merge_options(cfg, [key, value])
    text = " ".join(f"{key} {value!r}" for key, value in chosen.items())
    if why:
        text += f"; no shares of the gradient are held, since {why}, but the weights are "
        text += " ".join(f"{key} {now[key]!r}" for key in weights if key in now)
    logging.getLogger(__name__).info("By --teacher: %s", text)


def _weight(head: str) -> str:
    return f"DISTILL.{head}.WEIGHT"


def _unbalanced(weights: Collection[str], now: Mapping[str, Any], said: Collection[str]) -> str:
    """Why no shares are held; "" if they are."""
    causes = [f"{key} is given" for key in weights if key in said]
    if _SHARES not in said:
        causes += [f"the share of {x} has to be chosen" for x in _CHOSEN if _weight(x) in weights]
    causes += [f"{_SHARES} is empty"] * (_SHARES in said and not now[_SHARES])
    return " and ".join([*causes, *["DISTILL.COMPILE is True"] * now["DISTILL.COMPILE"]])
