"""A step of a training in parts: what each takes, its losses, and the gradient of each."""

import math
import time
from collections import defaultdict
from typing import Collection, Dict, Iterator, List, NamedTuple, Sequence

import torch
from torch import Tensor

from ..distiller import Distiller
from ..engine.hooks.gradient_share import gradient_norms
from ..engine.hooks.loss_watch import heads_of
from ..engine.steps import to_host
from ..engine.trainer import DistillationTrainer

DOMINATES = 0.9  # share of the gradient norm


class Measured(NamedTuple):
    """A step: seconds of its parts, the losses, and their gradient norms at the features.

    A plain detector has no norms.
    """

    times: Dict[str, float]
    losses: Dict[str, float]
    norms: Dict[str, float]


def measure_step(trainer: DistillationTrainer, stream: Iterator[List[dict]]) -> Measured:
    """One training step, in the precision of the training; probes see it, hooks do not."""
    step = trainer._trainer
    times: Dict[str, float] = defaultdict(float)
    norms: Dict[str, float] = {}
    clock = _Clock(times)
    batch = next(stream)
    clock("data")
    with step.autocast():
        if trainer.distiller is None:
            losses = trainer.model(batch)
            clock("student, forward")
        else:
            losses, norms = _in_parts(trainer.distiller, batch, clock)
    clock.restart()
    trainer.optimizer.zero_grad()
    step.scaled(sum(losses.values())).backward()
    step.update()
    clock("backward and update")
    return Measured(dict(times), {k: x.item() for k, x in to_host(losses).items()}, norms)


def _in_parts(
    model: Distiller, batch: List[dict], clock: "_Clock"
) -> tuple[Dict[str, Tensor], Dict[str, float]]:
    student = model.run_student(batch)
    clock("student, forward")
    teachers = model.run_teachers(batch, student)
    clock("teachers")
    model.supervise(batch, student, teachers)
    clock("student, forward")
    losses = model.run_heads(student, teachers)
    clock("methods")
    for probe in model.probes.values():
        probe(losses, student)
    return losses, gradient_norms(losses, list(student.features.values()))


class _Clock:
    def __init__(self, times: Dict[str, float]) -> None:
        self._times = times
        self.restart()

    def restart(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._last = time.perf_counter()

    def __call__(self, part: str) -> None:
        last = self._last
        self.restart()
        self._times[part] += self._last - last


def gradient_shares(norms: Dict[str, float]) -> Dict[str, float]:
    """Each loss's part of the sum of the finite norms, 0 to 1; NaN for those that are not."""
    total = sum(norm for norm in norms.values() if math.isfinite(norm)) or 1.0
    return {name: norm / total if math.isfinite(norm) else math.nan for name, norm in norms.items()}


def find_problems(
    steps: Sequence[Measured], shares: Dict[str, float], heads: Collection[str], held: bool = False
) -> List[str]:
    """Losses that are not finite, do nothing, or leave nothing to the others.

    Args:
        steps: in their order.
        shares: see `gradient_shares`.
        heads: methods, whose losses are named `loss_<head>_<term>`; the others are the detector's.
        held: whether DISTILL.BALANCE.SHARES sets the methods' weights.
    """
    problems, of = not_finite(steps), heads_of(shares, heads)
    for name, share in shares.items():
        if math.isnan(share):
            problems.append(f"{name} has a NaN or infinite gradient: check weights and images.")
        elif name in of and share == 0:
            problems.append(f"{name} has no gradient: it teaches the student nothing.")
        elif name in of and share > DOMINATES and not held:
            key = f"DISTILL.{of[name]}.WEIGHT"
            problems.append(f"{name} has {share:.0%} of the gradient: lower {key}.")
    return problems


def not_finite(steps: Sequence[Measured]) -> List[str]:
    """The losses of the first step that has any which are not finite."""
    for number, step in enumerate(steps, 1):
        if bad := [f"{k} is {x}" for k, x in step.losses.items() if not math.isfinite(x)]:
            hint = "check weights and images" if number == 1 else "lower SOLVER.BASE_LR"
            return [f"{x} in step {number}: {hint}." for x in bad]
    return []
