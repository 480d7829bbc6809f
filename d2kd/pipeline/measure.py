"""What a step takes here: a few of them, on models that are thrown away."""

import resource
import subprocess
import sys
import time
from typing import List

import torch
from detectron2.config import CfgNode

from ..config.naming import construct
from ..data.custom import registered
from ..engine.command_line import config_of
from ..engine.pace import measure_pace
from .choose import Costs

_TURNS = 3
_MOST = 192  # px
_IMPORTS = "import d2kd.engine.main, d2kd.engine.trainer"
_BUILDS = 2.2  # times the imports, of what a training does before its first step
_FORWARD = 0.3  # of a teacher's training step, in a step of its student


def measure(size: int, student: List[str], other: List[str], trains_teacher: bool) -> Costs:
    """Time plain steps beside those of a teacher, or of the distillation from a given one.

    Args:
        size: px of the images' shorter side in both.
        student: words behind `d2kd train` of the plain student.
        other: of the teacher's training; or of the distillation.
        trains_teacher: whether `other` is the teacher's training.
    """
    base = _memory()
    configs = [config_of(words) for words in (student, other)]
    with registered(configs[0]):
        pace = measure_pace(configs[0], configs[1], _TURNS)
    slow = pace.plain * pace.ratio
    teacher, distilled = (slow, pace.plain + _FORWARD * slow) if trains_teacher else (0.0, slow)
    disk = _disk(configs[0], 2) + (_disk(configs[1], 1) if trains_teacher else 0)
    return Costs(size, pace.plain, teacher, distilled, _memory(), base, disk, _start())


def measured_size(size: int) -> int:
    """The size to measure at: on a CPU no more than 192 px, where steps are quick."""
    return size if torch.cuda.is_available() else min(size, _MOST)


def _start() -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True, capture_output=True)
    return _BUILDS * (time.monotonic() - begin)


def _disk(cfg: CfgNode, runs: int) -> int:
    """Bytes of the checkpoints of runs: weights and AdamW's two moments of each, the best twice."""
    weights = sum(x.numel() * x.element_size() for x in construct(cfg).state_dict().values())
    return runs * 3 * weights * (cfg.SOLVER.CHECKPOINTS_TO_KEEP + 2)


def _memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
