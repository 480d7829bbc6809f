"""Distillation terms that do nothing, or everything, are reported."""

import logging
from typing import Dict, List, TypedDict

from detectron2.engine import HookBase
from detectron2.utils import comm

_STEPS = 20
_DOMINATES = 10.0


class LossWatchState(TypedDict):
    """What a checkpoint keeps: values of every loss by name, and whether they were reported."""

    seen: Dict[str, List[float]]
    done: bool


class LossWatch(HookBase):
    """Reports, once and by name, a term that is zero in 20 distilled steps or rules the task loss.

    `GradientShare` reports terms without gradient. The first rank has the values, averaged over
    all ranks; they are in the event storage anyway, so looking costs nothing.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._seen: Dict[str, List[float]] = {}
        self._done = False

    def after_step(self) -> None:
        """Take the values of this step, and report when there are enough."""
        distiller = self.trainer.distiller
        if self._done or distiller.scale == 0 or not comm.is_main_process():
            return
        latest = self.trainer.storage.latest()
        losses = {name: value for name, (value, _) in latest.items() if name.startswith("loss_")}
        for name, value in losses.items():
            self._seen.setdefault(name, []).append(value)
        if max(map(len, self._seen.values()), default=0) >= _STEPS:
            self._done = True
            for text in describe_terms(self._seen, distiller.weights):
                logging.getLogger(__name__).warning(text)

    def state_dict(self) -> LossWatchState:
        """What was seen, and whether it was reported."""
        return {"seen": self._seen, "done": self._done}

    def load_state_dict(self, state: LossWatchState) -> None:
        """A resumed run does not report again."""
        self._seen, self._done = state["seen"], state["done"]


def describe_terms(seen: Dict[str, List[float]], weights: Dict[str, float]) -> List[str]:
    """Say what is wrong with the distillation terms.

    Args:
        seen: values of every loss, weighted, by name.
        weights: weight by head; the terms of head H are named `loss_H_<term>`.

    Returns:
        A sentence per term that is zero throughout, with the likely causes, or whose mean is over
        ten times the mean sum of the task losses.
    """
    heads = {name: h for name in seen for h in weights if name.startswith(f"loss_{h}_")}
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


def _mean(values: List[float]) -> float:
    return sum(values) / len(values)
