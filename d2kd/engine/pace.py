"""How many plain steps a distilled step takes, measured in turns beside whatever else runs."""

import math
import platform
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from ..config.loading import OF_CACHE, with_plain_teachers
from ..cores import torch_threads, usable_cores
from ..data import register_custom_datasets
from ..teachers import Teacher
from .hooks.build import build_distillation_hooks
from .hooks.teacher_trial import TeacherTrial
from .log_file import log_to
from .trainer import DistillationTrainer

WARM_UP = 3  # steps of each trainer that are not timed
TURNS, STEPS = 12, 2  # turns of each trainer, and steps of a turn


@dataclass(frozen=True)
class Pace:
    """What steps take.

    Args:
        plain: seconds of a plain step, the median of its turns.
        ratio: time of a distilled step in plain steps, as measured.
        turns: that were timed, of each kind.
        limits: the smallest and the largest ratio that count.
    """

    plain: float
    ratio: float
    turns: int = TURNS
    limits: Tuple[float, float] = (0.0, math.inf)

    @property
    def used(self) -> float:
        """The ratio within the limits."""
        return min(max(self.ratio, self.limits[0]), self.limits[1])

    def matched_steps(self, distilled: int) -> int:
        """Plain steps in the time of that many distilled ones, at least 1."""
        return max(1, round(self.used * distilled))

    def __str__(self) -> str:
        limit = "" if self.used == self.ratio else f", of which {self.used:.2f} count"
        return f"a distilled step takes the time of {self.ratio:.2f} plain ones{limit}"


def take_turns(
    plain: Callable[[], object],
    distilled: Callable[[], object],
    turns: int = TURNS,
    clock: Callable[[], float] = time.perf_counter,
    steps: int = STEPS,
    between: Callable[[], object] = lambda: None,
) -> Pace:
    """Time two jobs in alternation; another job that comes, stays or goes slows neighbours alike.

    Args:
        plain: does `steps` plain steps.
        distilled: does `steps` distilled steps.
        turns: of each.
        clock: seconds.
        steps: in a turn.
        between: called behind each turn, not timed.

    Returns:
        Pace: its ratio is the median of those of every distilled turn to the plain ones before
        and after it.
    """
    seconds = []
    for index in range(2 * turns + 1):
        start = clock()
        (distilled if index % 2 else plain)()
        seconds.append(clock() - start)
        between()
    ratios = [seconds[i] / seconds[i + side] for i in range(1, 2 * turns, 2) for side in (-1, 1)]
    return Pace(statistics.median(seconds[::2]) / steps, statistics.median(ratios), turns)


class Steps:
    """A trainer with a fresh model that makes steps when it is called; nothing of it is kept."""

    def __init__(self, cfg: CfgNode, threads: int = 0) -> None:
        """Build it; OUTPUT_DIR is to be thrown away. It makes its steps with so many threads."""
        self.threads = threads
        register_custom_datasets(cfg)
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
        self.trainer = trainer = DistillationTrainer(cfg)
        trainer.storage, trainer.iter = EventStorage(), trainer.max_iter // 2  # behind any ramp
        hooks = build_distillation_hooks(cfg) if trainer.distiller else []
        self.hooks = [hook for hook in hooks if hook is not None]
        for hook in self.hooks:
            hook.trainer = trainer
            if isinstance(hook, TeacherTrial):
                hook.before_train()

    @property
    def _teachers(self) -> Sequence[Teacher]:
        return self.trainer.distiller.teachers if self.trainer.distiller is not None else ()

    def drain(self) -> None:
        """Wait for teachers that run ahead, so that the next turn is not slowed by them."""
        for teacher in self._teachers:
            teacher.drain()

    def close(self) -> None:
        """End what teachers that run ahead have started."""
        for teacher in self._teachers:
            teacher.close()

    def __call__(self, steps: int = STEPS) -> None:
        """Train: data, losses, gradients, optimizer, and of the hooks those of a distillation."""
        cuda, trainer = torch.cuda.is_available(), self.trainer
        threads, optimized = torch_threads(self.threads), torch.jit.optimized_execution(cuda)
        with threads, trainer.storage, optimized:  # as `DistillationTrainer.train`
            for _ in range(steps):
                for hook in self.hooks:
                    hook.before_step()
                trainer.run_step()
                for hook in self.hooks:
                    hook.after_step()
                trainer.iter += 1
        if cuda:
            torch.cuda.synchronize()


def measure_pace(plain: CfgNode, distilled: CfgNode, turns: int = TURNS, threads: int = 0) -> Pace:
    """Time the steps of two trainings on this machine, on models that are thrown away.

    Where `DISTILL.BALANCE.PERIOD` measures again and again, a turn is as long as that period, and
    what the first steps measure is not timed. Teachers compute in every step, whatever a cache
    holds: the time neither depends on DISTILL.TEACHER.CACHE_DIR nor is anything written there.

    Args:
        plain: config of a training.
        distilled: of the other.
        turns: of each, of STEPS steps; there are fewer where a turn is longer, but at least 3.
        threads: of PyTorch in this process during a distilled step; 0: those of a plain one.
    """
    balance = distilled.DISTILL.BALANCE
    steps = max(STEPS, balance.PERIOD if balance.SHARES else 0)
    first = WARM_UP + (balance.STEPS if balance.SHARES else 0)
    with TemporaryDirectory() as name, log_to(Path(name)):
        jobs = []
        for cfg, own, count in ((plain, 0, WARM_UP), (distilled, threads, first)):
            cfg = cfg.clone()
            cfg.defrost()
            cfg.OUTPUT_DIR = name
            with_plain_teachers(cfg, OF_CACHE)
            cfg.DISTILL.TEACHER.CHECK_IMAGES = cfg.DISTILL.PICTURES.PERIOD = 0
            with torch_threads(own):
                jobs.append(Steps(cfg, own))
            jobs[-1](count)
        turns = turns if steps == STEPS else max(3, turns * STEPS // steps)
        plain_steps, distilled_steps = (partial(job, steps) for job in jobs)
        try:
            between = jobs[1].drain
            return take_turns(plain_steps, distilled_steps, turns, steps=steps, between=between)
        finally:
            jobs[1].close()


def device_name() -> str:
    """The GPU, or the processor and the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {usable_cores()} cores, threads: {torch.get_num_threads()})"
