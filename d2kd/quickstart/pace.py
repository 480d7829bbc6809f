"""How many plain steps a distilled step takes, measured in turns beside whatever else runs."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable

import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from .training import QuickstartTrainer, load_config, log_to

WARM_UP = 3  # steps of each trainer that are not timed
TURNS, STEPS = 12, 2  # turns of each trainer, and steps of a turn
# 1.9 and 2.1 were measured on two cores and on one. At 2.5 the whole quick start takes 14 minutes
# on two cores, so that no measurement makes it longer than 20.
MAX_RATIO = 2.5


@dataclass(frozen=True)
class Pace:
    """What steps take.

    Args:
        plain: seconds of a plain step, the median of its turns.
        ratio: time of a distilled step in plain steps, as measured.
        turns: that were timed, of each kind.
    """

    plain: float
    ratio: float
    turns: int = TURNS

    @property
    def used(self) -> float:
        """The ratio between 1 (a distilled step contains a plain one) and MAX_RATIO."""
        return min(max(self.ratio, 1.0), MAX_RATIO)

    def matched_steps(self, distilled: int) -> int:
        """Plain steps in the time of that many distilled ones."""
        return round(self.used * distilled)

    def __str__(self) -> str:
        limit = "" if self.used == self.ratio else f", of which {self.used:.2f} count"
        return f"a distilled step takes the time of {self.ratio:.2f} plain ones{limit}"


def take_turns(
    plain: Callable[[], object],
    distilled: Callable[[], object],
    turns: int = TURNS,
    clock: Callable[[], float] = time.perf_counter,
) -> Pace:
    """Time two jobs in alternation; another job that comes, stays or goes slows neighbours alike.

    Args:
        plain: does STEPS plain steps.
        distilled: does STEPS distilled steps.
        turns: of each.
        clock: seconds.

    Returns:
        Pace: its ratio is the median of those of every distilled turn to the plain ones before
        and after it.
    """
    seconds = []
    for index in range(2 * turns + 1):
        start = clock()
        (distilled if index % 2 else plain)()
        seconds.append(clock() - start)
    ratios = [seconds[i] / seconds[i + side] for i in range(1, 2 * turns, 2) for side in (-1, 1)]
    return Pace(statistics.median(seconds[::2]) / STEPS, statistics.median(ratios), turns)


class Steps:
    """A trainer with a fresh model that makes steps when it is called; nothing of it is kept."""

    def __init__(self, name: str, folder: Path, teacher: Path) -> None:
        """Build it; see `load_config` for the name; the folder is to be thrown away."""
        cfg = load_config(name, folder)
        cfg.DISTILL.TEACHER.WEIGHTS = (str(teacher),)
        seed_all_rng(cfg.SEED)
        self.trainer, self.storage = QuickstartTrainer(cfg), EventStorage()

    def __call__(self, steps: int = STEPS) -> None:
        """Train, without the hooks."""
        cuda = torch.cuda.is_available()
        with self.storage, torch.jit.optimized_execution(cuda):  # as in `DistillationTrainer.train`
            for _ in range(steps):
                self.trainer.run_step()
        if cuda:
            torch.cuda.synchronize()


def measure_pace(teacher: Path, turns: int = TURNS) -> Pace:
    """Time plain and distilled steps of this machine, on models that are thrown away.

    Args:
        teacher: a file of `save_teacher`.
        turns: of each kind.
    """
    with TemporaryDirectory() as name, log_to(Path(name)):
        plain, distilled = (Steps(kind, Path(name), teacher) for kind in ("student", "distilled"))
        for job in (plain, distilled):
            job(WARM_UP)
        return take_turns(plain, distilled, turns)
