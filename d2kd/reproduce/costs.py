"""What a pair costs: GPU hours and disk, estimated before anything starts."""

import re
from dataclasses import dataclass
from typing import List

from detectron2.config import CfgNode

from ..build import student_config
from ..config.loading import without_pretrained
from ..config.naming import construct
from ..engine.command_line import config_of
from ..study import Study
from ..study.results import read_result
from .pairs import Pair
from .plan import LEARNS_TOKENS, open_rows

# Seconds of a training step of 16 images on eight V100: R_50, R_101 and X_101 of Detectron2's model
# zoo (Faster R-CNN and RetinaNet), the smaller ones scaled from R_50 by what they compute.
_STEP = {
    "mobilenetv2": 0.13,
    "R_18": 0.14,
    "R_34": 0.17,
    "R_50": 0.21,
    "R_101": 0.29,
    "X_101": 0.64,
}
_FORWARD = 1 / 3  # of a teacher's training step
_LEARNING = 1 / 2  # of it: the forward, and gradients back through the heads to the tokens


@dataclass(frozen=True)
class Cost:
    """Of all trainings of a pair that are to be done.

    Args:
        hours: of one V100; a newer GPU needs fewer.
        disk: bytes of the checkpoints.
        unknown: a teacher whose time is not known.
    """

    hours: float
    disk: int
    unknown: str = ""

    def __str__(self) -> str:
        more = f", without the forward of {self.unknown}" if self.unknown else ""
        return (
            f"about {self.hours:.0f} GPU hours (V100) and {self.disk / 2**30:.0f} GB of disk{more}"
        )


def cost_of(pair: Pair, study: Study) -> Cost:
    """Estimate the trainings of a study of `plan_of` that are not finished.

    Hours come from Detectron2's published times of its own detectors by backbone, so that half or
    twice as many are possible; a teacher in the step counts a third of its own training step, and
    a step that learns its tokens a half. Tokens take no disk.
    """
    hours, disk = 0.0, 0
    for row in open_rows(study):
        runs = [run for run in study.rows[row] if read_result(run) is None]
        cfg = config_of(study.trained[row], distils=False)
        seconds = sum(step_seconds(row, pair))
        images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
        hours += len(runs) * images * seconds * 8 / 16 / 3600
        disk += 0 if row.startswith(LEARNS_TOKENS) else len(runs) * _checkpoints(cfg)
    return Cost(hours, disk, pair.teacher_config if len(_backbones(pair.name)) < 2 else "")


def step_seconds(row: str, pair: Pair) -> List[float]:
    """Seconds of 16 images on eight GPUs: of the network that trains, and of its teacher."""
    named = [_STEP[x] for x in _backbones(row)]
    if row.startswith(LEARNS_TOKENS):
        return [_LEARNING * named[0]]
    return [named[0], *(_FORWARD * x for x in named[1:])] if row == pair.name else named[:1]


def _backbones(name: str) -> List[str]:
    return re.findall("|".join(_STEP), name)


def _checkpoints(cfg: CfgNode) -> int:
    """Bytes of weights and momentum: checkpoints that are kept, the best and the final one."""
    detector = construct(without_pretrained(student_config(cfg)))
    weights = sum(x.numel() * x.element_size() for x in detector.state_dict().values())
    periodic = cfg.SOLVER.MAX_ITER // max(1, cfg.SOLVER.CHECKPOINT_PERIOD)
    kept = min(cfg.SOLVER.CHECKPOINTS_TO_KEEP or periodic, periodic)
    return 2 * weights * (kept + 2)
