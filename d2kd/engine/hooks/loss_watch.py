"""Distillation terms that do nothing, or everything, are reported."""

import logging
import math
from typing import Dict, Iterable, Iterator, List, TypedDict

from detectron2.engine import HookBase
from detectron2.utils import comm

_STEPS = 20
_DOMINATES = 10.0
_WINDOWS = 20  # so many follow each other in a run; a mean is of one of them
_COMPARED = 0.1, 0.25, 0.5, 0.75  # of the run, where windows end; the last with those before
_MOVES = 0.97  # of an earlier mean, or less
Window = Dict[str, List[float]]
"""Term -> sum of its values without weight, and their number."""


class LossWatchState(TypedDict):
    """What a checkpoint keeps: values of every loss by name, and whether they were reported."""

    seen: Dict[str, List[float]]
    done: bool
    windows: Dict[int, Window]


class LossWatch(HookBase):
    """Reports, once and by name, a term that is zero in 20 distilled steps or rules the task loss.

    After three quarters of a run of 400 steps or more it reports terms that have not fallen.
    `GradientShare` reports terms without gradient. The first rank has the values, averaged over
    all ranks; they are in the event storage anyway, so looking costs nothing.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._seen: Dict[str, List[float]] = {}
        self._done = False
        self._windows: Dict[int, Window] = {}
        self._weights: Dict[str, float] = {}

    def before_step(self) -> None:
        """Keep the weights of this step, which may be others behind it."""
        self._weights = dict(self.trainer.distiller.weights)

    def after_step(self) -> None:
        """Take the values of this step, and report when there are enough."""
        if self.trainer.distiller.scale == 0 or not comm.is_main_process():
            return
        latest = self.trainer.storage.latest()
        losses = {name: value for name, (value, _) in latest.items() if name.startswith("loss_")}
        if not self._done:
            self._look_early(losses)
        self._look_late(losses)

    def _look_early(self, losses: Dict[str, float]) -> None:
        distiller = self.trainer.distiller
        for name, value in losses.items():
            self._seen.setdefault(name, []).append(value)
        if max(map(len, self._seen.values()), default=0) >= _STEPS:
            self._done = True
            for text in describe_terms(self._seen, distiller.weights):
                logging.getLogger(__name__).warning(text)

    def _look_late(self, losses: Dict[str, float]) -> None:
        """Add to the window that this step is in, and compare behind the last one."""
        step, length = self.trainer.iter + 1, self.trainer.max_iter // _WINDOWS
        ends = [round(part * self.trainer.max_iter) for part in _COMPARED]
        end = next((x for x in ends if x - length < step <= x), None)
        if end is None or length < _STEPS:
            return
        window = self._windows.setdefault(end, {})
        for name, head in heads_of(losses, self._weights).items():
            factor = self._weights[head] * self.trainer.distiller.scale
            if factor > 0 and math.isfinite(losses[name]):
                sums = window.setdefault(name, [0.0, 0])
                window[name] = [sums[0] + losses[name] / factor, sums[1] + 1]
        if step == ends[-1]:
            for text in describe_unmoved(self._windows):
                logging.getLogger(__name__).warning(text)

    def state_dict(self) -> LossWatchState:
        """What was seen, and whether it was reported."""
        return {"seen": self._seen, "done": self._done, "windows": self._windows}

    def load_state_dict(self, state: LossWatchState) -> None:
        """A resumed run does not report again."""
        self._seen, self._done = state["seen"], state["done"]
        self._windows = state.get("windows", {})  # earlier versions had none


def heads_of(losses: Iterable[str], weights: Iterable[str]) -> Dict[str, str]:
    """The head of each distillation term, whose name is `loss_<head>_<term>`."""
    return {name: head for name in losses for head in weights if name.startswith(f"loss_{head}_")}


def describe_unmoved(windows: Dict[int, Window]) -> Iterator[str]:
    """A sentence per term whose last mean is not below an earlier one.

    Args:
        windows: by the step, counted from 1, that they end with.
    """
    last = max(windows)
    for name, now in windows[last].items():
        for step in sorted(windows):
            before = windows[step].get(name)
            if step < last and before and _mean_of(now) > _MOVES * _mean_of(before) > 0:
                yield (
                    f"{name} has not fallen since step {step}: {_mean_of(before):.3g} then, "
                    f"{_mean_of(now):.3g} at step {last}, without its weight. Either the student "
                    "has learnt of it what it can, and DISTILL.SCHEDULE may end there, or it is "
                    "too weak beside the task, which DISTILL.GRADIENT_PERIOD 200 shows."
                )
                break


def describe_terms(seen: Dict[str, List[float]], weights: Dict[str, float]) -> List[str]:
    """Say what is wrong with the distillation terms.

    Args:
        seen: values of every loss, weighted, by name.
        weights: weight by head; the terms of head H are named `loss_H_<term>`.

    Returns:
        A sentence per term that is zero throughout, with the likely causes, or whose mean is over
        ten times the mean sum of the task losses.
    """
    heads = heads_of(seen, weights)
    task = sum(_mean(values) for name, values in seen.items() if name not in heads)
    texts = []
    for name, head in heads.items():
        if weights[head] > 0 and not any(seen[name]):
            texts.append(
                f"{name} was exactly zero in {len(seen[name])} distilled steps, so it teaches "
                "nothing. Likely causes: no image has the objects or locations it looks at (see "
                "the labels, and the method's gates and thresholds), the student equals the "
                f"teacher (DISTILL.INIT_FROM_TEACHER), or DISTILL.{head} switches it off."
            )
        elif task > 0 and _mean(seen[name]) > _DOMINATES * task:
            texts.append(
                f"{name} is {_mean(seen[name]) / task:.0f} times the task losses together, so it "
                f"rules the training. Lower DISTILL.{head}.WEIGHT, or see with "
                "DISTILL.GRADIENT_PERIOD 200 what its share of the gradient is."
            )
    return texts


def _mean_of(sums: List[float]) -> float:
    return sums[0] / sums[1]


def _mean(values: List[float]) -> float:
    return sum(values) / len(values)
