"""What the values of config keys must be, as a table."""

import math
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Iterator, Tuple

from detectron2.layers import get_norm
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY
from fvcore.common.registry import Registry

from ..quantize.parts import PARTS
from ..solver import OPTIMIZERS, STOCK_SCHEDULES

Holds = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """An int or float that is finite; True and False are none."""
    return type(value) in (int, float) and math.isfinite(value)


def _each(holds: Holds) -> Holds:
    return lambda values: isinstance(values, (list, tuple)) and all(map(holds, values))


def _nested(holds: Holds) -> Holds:
    return lambda v: _each(_nested(holds))(v) if isinstance(v, (list, tuple)) else holds(v)


def _above_zero(value: Any) -> bool:
    return is_number(value) and value > 0


def _at_least_zero(value: Any) -> bool:
    return value is None or (is_number(value) and value >= 0)


def _at_most(most: int) -> Holds:
    return lambda value: is_number(value) and value <= most


def _fraction(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _rising(values: Any) -> bool:
    return _each(is_number)(values) and list(values) == sorted(set(values))


def _is_norm(name: str) -> bool:
    return name in ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "LN") or (
        name.startswith("naiveSyncBN") and get_norm(name, 8) is not None
    )


def _pairs(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(x, (list, tuple)) and len(x) == 2 and all(isinstance(name, str) for name in x)
        for x in value
    )


_RULES: Dict[str, Tuple[Holds, str]] = {
    "above 0": (_above_zero, "IMS_PER_BATCH MAX_ITER CHECKPOINT_PERIOD NUM_CLASSES OUT_CHANNELS "
                "*_OUT_CHANNELS CONV_DIM FC_DIM POOLER_RESOLUTION BATCH_SIZE_PER_IMAGE TOPK "
                "*_TOPK *_TOPK_TRAIN *_TOPK_TEST TOPK_CANDIDATES_TEST DETECTIONS_PER_IMAGE "
                "INPUT.MAX_SIZE_* NUM_GROUPS WIDTH_PER_GROUP REG_MAX RES5_DILATION "
                "PICTURES.IMAGES BALANCE.STEPS BASE_LR CLIP_VALUE NORM_TYPE CENTER_SAMPLING_RADIUS "
                "CACHE_GB RANDOM_SUBSET_RATIO SDGQP.TAU SDGQP.KAPPA DISTILL.PKD.EPS "
                "DISTILL.LR_FACTOR SetKD.SCORE_LOW SetKD.UNION_NMS MAX_BOXES TOKENS.NUMBER "
                "TEACHER.DEADLINE"),
    "at least 0": (_at_least_zero, "NUM_WORKERS *_PERIOD WARMUP_ITERS CHECKPOINTS_TO_KEEP SPIKE "
                   "CHECK_IMAGES NUM_CONV NUM_CONVS NUM_FC POOLER_SAMPLING_RATIO MIN_SIZE_TEST "
                   "WEIGHT_DECAY WEIGHT_DECAY_* LOSS_WEIGHT *_LOSS_WEIGHT FOCAL_LOSS_GAMMA "
                   "SOLVER.GAMMA WARMUP_FACTOR BIAS_LR_FACTOR SMOOTH_L1*BETA QFL_BETA "
                   "REFERENCE_WORLD_SIZE REPEAT_THRESHOLD NUM_DECAYS BASE_LR_END FREEZE_AT "
                   "PROPOSAL_GENERATOR.MIN_SIZE DISTILL.*.WEIGHT DISTILL.*.TEACHER GLOBAL.HACK "
                   "MIN_KEYPOINTS_PER_IMAGE FED_LOSS* TOKENS.DICE FORCE_TOP_K "
                   "TEACHER.AHEAD TEACHER.THREADS GUARD.REPLAY_MB QUANTIZE.START"),
    "at most 100,000": (_at_most(100_000), "IMS_PER_BATCH OUT_CHANNELS *_OUT_CHANNELS CONV_DIM "
                        "FC_DIM POOLER_RESOLUTION NUM_GROUPS WIDTH_PER_GROUP REG_MAX NUM_CLASSES "
                        "PICTURES.IMAGES"),
    "at most 1,000": (_at_most(1000), "NUM_WORKERS NUM_CONV NUM_CONVS NUM_FC NUM_LEVELS "
                      "TOKENS.NUMBER TEACHER.THREADS"),
    "at most 16": (_at_most(16), "TEACHER.AHEAD"),
    "a number from 0 to 1": (_fraction, "*THRESH_TEST RPN.NMS_THRESH POSITIVE_FRACTION "
                             "FOCAL_LOSS_ALPHA SOLVER.MOMENTUM ANCHOR_GENERATOR.OFFSET "
                             "SOLVER.EMA.DECAY DDOD.*_EXPONENT SetKD.SCORE SetKD.SCORE_LOW "
                             "SetKD.UNION_NMS BALANCE.BAND"),
    "a number between 0 and 1": (lambda v: is_number(v) and 0 < v < 1,
                                 "PRIOR_PROB ONECYCLE_PCT_START"),
    "a list of numbers above 0": (_each(_above_zero), "INPUT.MIN_SIZE_TRAIN PIXEL_STD "
                                  "INPUT.CROP.SIZE "
                                  "RETINANET.BBOX_REG_WEIGHTS ATSS.BBOX_REG_WEIGHTS "
                                  "DDOD.BBOX_REG_WEIGHTS RPN.BBOX_REG_WEIGHTS "
                                  "ROI_BOX_HEAD.BBOX_REG_WEIGHTS"),
    "lists of numbers above 0": (_nested(_above_zero), "ANCHOR_GENERATOR.SIZES "
                                 "ANCHOR_GENERATOR.ASPECT_RATIOS ROI_BOX_CASCADE_HEAD.*"),
    "a list of indices, counted from 0": (_each(lambda x: type(x) is int and x >= 0),
                                          "DISTILL.*.TEACHERS"),
    f"a list of {', '.join(PARTS)}": (_each(lambda x: x in PARTS), "QUANTIZE.FLOAT"),
    "pairs of names": (_pairs, "DISTILL.TEACHER.CLASS_MAP"),
    "rising numbers": (_rising, "SOLVER.STEPS *.IOU_THRESHOLDS"),
    "a norm that Detectron2 knows (BN, SyncBN, FrozenBN, GN, LN or \"\")":
        (lambda v: isinstance(v, str) and _is_norm(v), "MODEL.*.NORM FPN.TOP_BLOCK_NORM"),
}  # fmt: skip

CHOICES: Dict[str, Tuple[Any, ...]] = {
    "SOLVER.OPTIMIZER": OPTIMIZERS,
    "SOLVER.LR_SCHEDULER_NAME": (*STOCK_SCHEDULES, "OneCycleLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
    "SOLVER.GUARD.NON_FINITE": ("stop", "skip"),
    "SOLVER.GUARD.ON_SPIKE": ("skip", "stop"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler",
                                 "RandomSubsetTrainingSampler"),
    "DISTILL.TEACHER.PRECISION": ("fp32", "bf16", "fp16", "auto"),
    "DISTILL.TEACHER.CACHE_BITS": (32, 16),
    "DISTILL.TEACHER.SIZE": ("student", "own"),
    "DISTILL.ASSIGN_WITH": ("own", "teacher"),
    "DISTILL.INIT_FROM_TEACHER": ("none", "neck", "neck+head"),
    "MODEL.RESNETS.DEPTH": (18, 34, 50, 101, 152),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.TIMM.STRIDE": (0, 8, 16, 32, 64),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": ("smooth_l1", "giou", "diou", "ciou"),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": ("smooth_l1", "giou", "diou", "ciou"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": ("smooth_l1", "giou", "diou", "ciou"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign", "ROIPool", "ROIAlignRotated"),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign", "ROIPool", "ROIAlignRotated"),
}  # fmt: skip

REGISTRIES: Dict[str, Registry] = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
}


def rules_of(key: str) -> Iterator[Tuple[Holds, str]]:
    """The rules of a key: whether a value holds, and what is asked in words."""
    for asked, (holds, patterns) in _RULES.items():
        if any(fnmatchcase(f".{key}", f"*.{pattern}") for pattern in patterns.split()):
            yield holds, asked
