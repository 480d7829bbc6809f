"""Keys that have no effect on a run, though they are not at their defaults."""

import logging
from typing import Dict, List, Sequence

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm

from ..errors import anchor_keys, class_count_key
from .defaults import get_d2kd_cfg
from .keys import changed_keys

_TWO_STAGE = ("MODEL.RPN.", "MODEL.ROI_", "MODEL.PROPOSAL_GENERATOR.", "MODEL.MASK_ON",
              "MODEL.KEYPOINT_ON")  # fmt: skip
_PLAIN = ("GeneralizedRCNN", "RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints")
_NOWHERE = ("GLOBAL.HACK", "TEST.AUG.", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_",
            "MODEL.SEM_SEG_HEAD.", "MODEL.PANOPTIC_FPN.")  # fmt: skip


def say_unread_keys(cfg: CfgNode) -> None:
    """Warn on the first rank, in one line, of keys that nothing reads."""
    _say(unread_keys(cfg))


def say_typed_in_vain(cfg: CfgNode, typed: Sequence[str]) -> None:
    """Warn of keys on the command line that another detector or method reads, as above.

    In a file they are not said: a config that others start from may set those of several.
    """
    others = set(unread_keys(cfg, of_others=True)) - set(unread_keys(cfg))
    _say([key for key in dict.fromkeys(typed) if key in others])


def unread_keys(cfg: CfgNode, of_others: bool = False) -> List[str]:
    """Keys that are not at their defaults and that nothing reads.

    Args:
        cfg: whose student is a detector of d2kd or of Detectron2; nothing is known of others.
        of_others: with the sections of other detectors and methods. The number of classes, which
            --data sets for several detectors, is left out.
    """
    distills = cfg.MODEL.META_ARCHITECTURE == "Distiller"
    detector = cfg.DISTILL.STUDENT if distills else cfg.MODEL.META_ARCHITECTURE
    if detector not in _PLAIN:
        return []
    unread = [*_NOWHERE, *(("VIS_PERIOD",) if distills else ("DISTILL.",))]
    unread += [x for x, read in _conditions(cfg).items() if not read]
    if of_others:
        unread += [*_other_detectors(detector), *_other_heads(cfg)]
        if not anchor_keys(detector, cfg.MODEL.ANCHOR_GENERATOR.NAME):
            unread.append("MODEL.ANCHOR_GENERATOR.")
    return [
        key
        for key in changed_keys(cfg, get_d2kd_cfg())
        if key.startswith(tuple(unread)) and not key.endswith(".NUM_CLASSES")
    ]


def _say(keys: Sequence[str]) -> None:
    if keys and comm.is_main_process():
        logging.getLogger(__name__).warning(
            "Without effect here, though not at their defaults: %s%s.",
            ", ".join(keys[:8]), f" and {len(keys) - 8} more" if len(keys) > 8 else "",
        )  # fmt: skip


def _other_detectors(detector: str) -> List[str]:
    sections = {f"MODEL.{name.upper()}." for name, _ in META_ARCH_REGISTRY}
    own = class_count_key(detector).removesuffix("NUM_CLASSES")
    return [*(sections - {own}), *(_TWO_STAGE if detector != "GeneralizedRCNN" else ())]


def _other_heads(cfg: CfgNode) -> List[str]:
    nodes = (x for x, node in cfg.DISTILL.items() if isinstance(node, CfgNode) and "WEIGHT" in node)
    return [f"DISTILL.{name}." for name in nodes if name not in cfg.DISTILL.HEADS]


def _conditions(cfg: CfgNode) -> Dict[str, bool]:
    """Keys, and whether the value of another key lets them be read."""
    solver, sampler = cfg.SOLVER, cfg.DATALOADER.SAMPLER_TRAIN
    schedule, teacher = solver.LR_SCHEDULER_NAME, cfg.DISTILL.TEACHER
    has_process = teacher.AHEAD > 0 and (cfg.MODEL.DEVICE == "cpu" or bool(teacher.DEVICE))
    return {
        "MODEL.TIMM.": "timm" in cfg.MODEL.BACKBONE.NAME,
        "MODEL.TIMM.STRIDE": "extractor" in cfg.MODEL.BACKBONE.NAME,
        "SOLVER.NESTEROV": solver.OPTIMIZER == "SGD",
        "SOLVER.BASE_LR_END": schedule == "WarmupCosineLR",
        "SOLVER.NUM_DECAYS": schedule == "WarmupStepWithFixedGammaLR",
        "SOLVER.ONECYCLE_PCT_START": schedule == "OneCycleLR",
        "DATALOADER.REPEAT_": sampler == "RepeatFactorTrainingSampler",
        "DATALOADER.RANDOM_SUBSET_RATIO": sampler == "RandomSubsetTrainingSampler",
        "DISTILL.TEACHER.CACHE_GB": bool(teacher.CACHE_DIR),
        "DISTILL.TEACHER.CACHE_BITS": bool(teacher.CACHE_DIR),
        "DISTILL.TEACHER.THREADS": has_process,
        "DISTILL.TEACHER.DEADLINE": has_process,
        "DISTILL.TEACHER.CHECK_MIN_AP": teacher.CHECK_IMAGES > 0,
        "DISTILL.TEACHER.CHECK_AGAINST": teacher.CHECK_IMAGES > 0,
        "DISTILL.BALANCE.STEPS": bool(cfg.DISTILL.BALANCE.SHARES),
        "DISTILL.BALANCE.PERIOD": bool(cfg.DISTILL.BALANCE.SHARES),
        "DISTILL.BALANCE.BAND": bool(cfg.DISTILL.BALANCE.SHARES),
        "DISTILL.PICTURES.IMAGES": cfg.DISTILL.PICTURES.PERIOD > 0,
        "TEST.PRECISE_BN.NUM_ITER": cfg.TEST.PRECISE_BN.ENABLED,
        "QUANTIZE.": cfg.QUANTIZE.ENABLED,
        "INPUT.CROP.": cfg.INPUT.CROP.ENABLED,
        "SOLVER.CLIP_GRADIENTS.": solver.CLIP_GRADIENTS.ENABLED,
    }
