"""A teacher that computes the next batches on a second stream of the student's device."""

from typing import Any, Dict, Tuple

import torch
from torch import Tensor

from ..adapters.transport import map_tensors
from .ahead import Answer, Request, answer
from .teacher import Teacher


class StreamRunner:
    """Queues a teacher's work on a stream of its own, so that it runs beside the student's.

    Two streams of one device share it: what is gained is what the student leaves idle. On a CPU,
    whose streams do nothing, a batch is computed when it is submitted.
    """

    lost = ""

    def __init__(self, teacher: Teacher) -> None:
        """Open a stream on the teacher's device when the first batch comes.

        Args:
            teacher: complete; used by nobody else at the same time.
        """
        self._teacher = teacher
        self._done: Dict[int, Tuple[Answer, Any]] = {}
        self._stream: Any = None

    def submit(self, number: int, request: Request) -> None:
        """See `Runner`."""
        device = self._teacher.adapter.device
        module = torch.get_device_module(device)
        if self._stream is None:
            self._stream = module.Stream() if device.type == "cpu" else module.Stream(device)
            self._stream.wait_stream(module.current_stream(device))
        with module.stream(self._stream):
            self._done[number] = answer(self._teacher, request), self._stream.record_event()

    def take(self, number: int) -> Answer:
        """See `Runner`; the host does not wait, the current stream does."""
        found, event = self._done.pop(number)
        device = self._teacher.adapter.device
        stream = torch.get_device_module(device).current_stream(device)
        stream.wait_event(event)

        def used_here(x: Tensor) -> Tensor:
            if x.device.type != "cpu":
                x.record_stream(stream)
            return x

        return found._replace(output=map_tensors(found.output, used_here))

    def drain(self) -> None:
        """See `Runner`; a stream's work is waited for by who times it."""

    def close(self) -> None:
        """See `Runner`."""
        self._done.clear()
