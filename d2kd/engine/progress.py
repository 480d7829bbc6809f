"""The line that a training prints: progress, losses by task and method, the last AP."""

import logging
import math
from datetime import timedelta
from typing import Dict, Iterator, Sequence, Tuple

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

WINDOW = 20  # steps that a printed value is the median of


class ProgressPrinter(EventWriter):
    """Prints lines.

    For example `120/800 15 %  eta 0:02:13  task 1.23 (cls 0.80, box_reg 0.43)  PKD 0.53  AP 34.5`.
    Losses are weighted, as they are added up; AP is of the last evaluation, with its step.
    """

    def __init__(self, max_iter: int, methods: Sequence[str]) -> None:
        """Set the last step, and the names of the heads."""
        self._max_iter, self._methods = max_iter, list(methods)
        self._logger = logging.getLogger(__name__)

    def write(self) -> None:
        """Print the line of this step."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:
            return
        if "time" in storage.histories():
            storage.put_scalar("eta_seconds", self._left(storage), smoothing_hint=False)
        self._logger.info(self.text(storage))

    def text(self, storage: EventStorage) -> str:
        """The line of the step that a storage is at."""
        done = storage.iter + 1
        parts = [f"{done}/{self._max_iter} {100 * done // self._max_iter} %"]
        parts += [text for text in (*self._times(storage), *self._losses(storage)) if text]
        parts += [*self._rate(storage), *self._accuracy(storage), *self._memory()]
        return "  ".join(parts)

    def _left(self, storage: EventStorage) -> float:
        seconds: float = storage.history("time").median(1000)
        return seconds * (self._max_iter - storage.iter - 1)

    def _times(self, storage: EventStorage) -> Iterator[str]:
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000)
            yield f"eta {timedelta(seconds=int(self._left(storage)))}  {seconds:.3g} s/step"
        if "data_time" in storage.histories():
            yield f"data {storage.history('data_time').avg(WINDOW):.2g} s"

    def _losses(self, storage: EventStorage) -> Iterator[str]:
        groups: Dict[str, Dict[str, float]] = {name: {} for name in ("task", *self._methods)}
        for name, history in storage.histories().items():
            if name.startswith("loss_"):
                value = history.median(storage.count_samples(name, WINDOW))
                group, term = self._group(name.removeprefix("loss_"))
                groups[group][term] = value
        for group, terms in groups.items():
            named = ", ".join(f"{term} {value:.3g}" for term, value in terms.items())
            if terms:
                detail = f" ({named})" if len(terms) > 1 else ""
                yield f"{group} {sum(terms.values()):.3g}{detail}"

    def _group(self, name: str) -> Tuple[str, str]:
        for method in self._methods:
            if name.startswith(f"{method}_"):
                return method, name.removeprefix(f"{method}_")
        return "task", name

    def _rate(self, storage: EventStorage) -> Iterator[str]:
        if "lr" in storage.histories():
            yield f"lr {storage.history('lr').latest():.3g}"

    def _accuracy(self, storage: EventStorage) -> Iterator[str]:
        for name, (value, step) in storage.latest().items():
            if (name == "AP" or name.endswith("bbox/AP")) and math.isfinite(value):
                yield f"AP {value:.1f} (at {step + 1})"

    def _memory(self) -> Iterator[str]:
        if torch.cuda.is_available():
            yield f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
