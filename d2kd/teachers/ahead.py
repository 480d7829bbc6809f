"""Teachers that compute a batch while the student is still at the batches before it.

Batches depend on SEED and the iteration alone and a teacher is frozen, so what it computes in
advance is what it would compute when it is asked.
"""

import logging
import time
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Protocol, Tuple

from detectron2.utils.events import EventStorage, get_event_storage

from ..adapters import DetectorOutput
from ..data.ahead import NUMBER
from .teacher import Teacher


class Request(NamedTuple):
    """Arguments of a call of `Teacher`; of the batch the images alone."""

    batch: List[dict]
    divisor: int
    input_format: str
    need: FrozenSet[str]


class Answer(NamedTuple):
    """What a teacher computed, and what it said.

    `scalars` are what it put into a storage, name -> value and smoothing hint; `said` are levels,
    loggers and texts of what it logged.
    """

    output: DetectorOutput
    scalars: Dict[str, Tuple[float, bool]]
    said: Tuple[Tuple[int, str, str], ...] = ()


def answer(teacher: Callable[..., DetectorOutput], request: Request) -> Answer:
    """Call a teacher, whose measures are for the storage of the step that takes the answer."""
    with EventStorage() as storage:
        output = teacher(*request)
    hints = storage.smoothing_hints()
    return Answer(output, {name: (x, hints[name]) for name, (x, _) in storage.latest().items()})


class Runner(Protocol):
    """Where a teacher computes in advance.

    Attributes:
        lost: why it computes no more; "" while it does.
    """

    lost: str

    def submit(self, number: int, request: Request) -> None:
        """Let a request be computed; returns at once."""

    def take(self, number: int) -> Optional[Answer]:
        """What was computed, as soon as it is; None if the runner is lost."""

    def drain(self) -> None:
        """Wait for everything that was submitted."""

    def close(self) -> None:
        """End what it started, and forget what it computed."""


class AheadTeacher(Teacher):
    """A teacher whose outputs on the next batches are computed elsewhere.

    It is the teacher that it is made of in all else: what depends on the student (outputs on its
    proposals, CrossKD's pass through the head) and what nobody announced is computed here.
    """

    def __init__(self, teacher: Teacher, runner: Runner) -> None:
        """Share everything of a teacher, which is not to be used any more.

        Args:
            teacher: complete.
            runner: made for it.
        """
        vars(self).update(vars(teacher))
        self._source, self._runner = teacher, runner
        self._asked: Dict[int, FrozenSet[str]] = {}

    def set_precision(self, precision: str) -> None:
        """See the base class; of what computes in advance too."""
        self._source.set_precision(precision)
        self._follow()

    def settle(self, precision: str) -> None:
        """See the base class; of what computes in advance too."""
        self._source.settle(precision)
        self._follow()

    def _follow(self) -> None:
        for name in ("precision", "undecided", "_dtype"):
            setattr(self, name, getattr(self._source, name))

    def look_ahead(
        self, batched_inputs: List[dict], divisor: int, input_format: str, need: FrozenSet[str]
    ) -> None:
        """Have a batch computed, which is numbered as `AheadLoader` does."""
        if not need:
            return
        number: int = batched_inputs[0][NUMBER]
        images = [{"image": x["image"]} for x in batched_inputs]
        self._asked[number] = need
        self._runner.submit(number, Request(images, divisor, input_format, need))

    def __call__(
        self, batched_inputs: List[dict], divisor: int, input_format: str, need: FrozenSet[str]
    ) -> DetectorOutput:
        """See the base class; a batch is computed in advance once.

        `teacher_wait` in the metrics is how long the host waited for it, s.
        """
        number, start = batched_inputs[0].get(NUMBER, -1), time.perf_counter()
        announced = self._asked.pop(number, None)
        found = None if announced is None else self._runner.take(number)
        if found is None or announced != need:
            return super().__call__(batched_inputs, divisor, input_format, need)
        get_event_storage().put_scalar("teacher_wait", time.perf_counter() - start)
        for level, logger, text in found.said:
            logging.getLogger(logger).log(level, "%s", text)
        for name, (value, hint) in found.scalars.items():
            get_event_storage().put_scalar(name, value, smoothing_hint=hint)
        found.output.adapter = self.adapter
        return found.output

    def lost(self) -> str:
        """See the base class."""
        return self._runner.lost

    def drain(self) -> None:
        """See the base class."""
        self._runner.drain()

    def close(self) -> None:
        """End what computes in advance."""
        self._runner.close()
        self._asked.clear()
