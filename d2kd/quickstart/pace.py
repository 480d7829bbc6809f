"""The pace of the quick start's plain and distilled steps, and where its teacher computes."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Tuple

import torch
from detectron2.config import CfgNode

from ..cores import usable_cores
from ..engine import pace
from ..errors import ConfigError
from .training import load_config

# 1.9 and 2.1 were measured on two cores and on one. At 2.5 the whole quick start takes 14 minutes
# on two cores, so that no measurement makes it longer than 20.
MAX_RATIO = 2.5
LIMITS = (1.0, MAX_RATIO)  # a distilled step contains a plain one


@dataclass(frozen=True)
class Mode:
    """Where the teacher computes; but for rounding by threads the student learns the same.

    Args:
        ahead: batches in advance, DISTILL.TEACHER.AHEAD.
        threads: of the student's process and of the teacher's; 0: as many as there are.
        tried: whether it was measured beside another one.
    """

    ahead: int = 0
    threads: int = 0
    tried: bool = False

    def set_in(self, cfg: CfgNode) -> None:
        """Write it into the config of a distillation."""
        cfg.DISTILL.TEACHER.AHEAD, cfg.DISTILL.TEACHER.THREADS = self.ahead, self.threads

    def __str__(self) -> str:
        threads = f" with {self.threads} threads for each of the two" if self.threads else ""
        where = (
            f"one batch ahead of the student{threads}" if self.ahead else "in the student's step"
        )
        return f"{where}, measured to be the fastest way here" if self.tried else where


def possible_modes() -> List[Mode]:
    """In the step; and ahead on a GPU, or where there are cores for two processes."""
    if torch.cuda.is_available():
        return [Mode(), Mode(ahead=1)]
    threads = min(torch.get_num_threads(), usable_cores() // 2)
    return [Mode(), Mode(ahead=1, threads=threads)] if threads else [Mode()]


def measure_pace(teacher: Path, turns: int = pace.TURNS) -> Tuple[pace.Pace, Mode]:
    """Time plain and distilled steps of this machine, on models that are thrown away.

    Args:
        teacher: a file of `save_teacher`.
        turns: of each kind.

    Returns:
        The pace in the mode that is fastest here, and that mode.
    """
    measured = [(_measure(teacher, turns, Mode()), Mode())]
    for mode in possible_modes()[1:]:
        with contextlib.suppress(ConfigError, RuntimeError, OSError):  # what cannot run here
            measured.append((_measure(teacher, turns, mode), mode))
    pace, mode = min(measured, key=lambda x: x[0].ratio)
    return pace, replace(mode, tried=len(measured) > 1)


def _measure(teacher: Path, turns: int, mode: Mode) -> pace.Pace:
    plain, distilled = (load_config(name, Path("thrown_away")) for name in ("student", "distilled"))
    distilled.DISTILL.TEACHER.WEIGHTS = (str(teacher),)
    mode.set_in(distilled)
    return replace(pace.measure_pace(plain, distilled, turns, mode.threads), limits=LIMITS)
