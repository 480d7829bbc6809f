"""Having the next batches computed by a process."""

import logging
import queue
import time
from typing import Any, Dict, Optional

import torch
from torch import Tensor

from ..adapters.transport import map_tensors
from .ahead import Answer, Request
from .ahead_process import TeacherProcess
from .teacher import Teacher

_SENT = 2  # requests in the pipe: the one that is computed and the next one


class ProcessRunner:
    """A teacher in a process of its own; between GPUs its outputs pass by CUDA IPC.

    A process that dies or does not answer in time is replaced once; the second one that does leaves
    the runner lost.
    """

    def __init__(
        self, teacher: Teacher, device: torch.device, threads: int = 0, deadline: float = 240.0
    ) -> None:
        """Start nothing yet.

        Args:
            teacher: complete; it is sent as it is when the first batch comes.
            device: where the process computes.
            threads: PyTorch's in the process, 0 for as many as this process has.
            deadline: seconds for one batch, the start of a process included.
        """
        self.lost = ""
        self.process: Optional[TeacherProcess] = None
        self._teacher, self._device = teacher, device
        self._threads, self._deadline = threads, deadline
        self._waiting: Dict[int, Request] = {}
        self._sent: Dict[int, Request] = {}
        self._done: Dict[int, Any] = {}
        self._since, self._starts = 0.0, 0

    def submit(self, number: int, request: Request) -> None:
        """See `Runner`."""
        if not self.lost:
            self._waiting[number] = request
            self._exchange(0.0)

    def take(self, number: int) -> Optional[Answer]:
        """See `Runner`; raises what the teacher raised."""
        while not self.lost and number not in self._done:
            self._exchange(max(self._since + self._deadline - time.monotonic(), 0.01))
        found = self._done.pop(number, None)
        if isinstance(found, Exception):
            raise found
        answered: Optional[Answer] = found
        return answered

    def close(self) -> None:
        """See `Runner`."""
        for held in (self._waiting, self._sent, self._done):
            held.clear()
        if self.process is not None:
            self.process.end()
        self.process, self.lost, self._starts = None, "", 0

    def drain(self) -> None:
        """Wait for everything that was submitted."""
        while not self.lost and (self._sent or self._waiting):
            self._exchange(self._deadline)

    def _exchange(self, seconds: float) -> None:
        """Send what may be sent, and receive what is there; wait so long for the first answer."""
        try:
            process = self.process = self.process or self._start()
            self._send(process)
            while self._sent:
                number, content = process.receive(seconds)
                self._done[number] = content
                if isinstance(content, Answer):
                    self._done[number] = self._here(content)
                del self._sent[number]
                seconds, self._since = 0.0, time.monotonic()
                self._send(process)
        except queue.Empty:
            if seconds and time.monotonic() - self._since > self._deadline:
                limit = f"{self._deadline:g} s (DISTILL.TEACHER.DEADLINE)"
                self._replace(f"it has not answered in {limit}")
        except (EOFError, OSError) as error:
            self._replace("", error)

    def _send(self, process: TeacherProcess) -> None:
        while self._waiting and len(self._sent) < _SENT:
            number = next(iter(self._waiting))
            if not self._sent:
                self._since = time.monotonic()
            self._sent[number] = self._waiting.pop(number)
            process.send(number, self._sent[number])

    def _start(self) -> TeacherProcess:
        self._starts += 1
        threads = self._threads or torch.get_num_threads()
        return TeacherProcess(self._teacher, self._device, threads)

    def _replace(self, reason: str, error: Optional[Exception] = None) -> None:
        """Have what was sent and is not answered sent anew, or be lost."""
        if self.process is not None:
            reason = reason or self.process.how_it_ended()
            self.process.end()
        reason += f" ({error})" if error is not None and str(error) else ""
        self.process = None
        if self._starts > 1:
            self.lost = f"the process of a teacher failed twice, now {reason}"
            return
        logging.getLogger(__name__).warning(
            "The process of a teacher is started again, once: %s.", reason
        )
        self._waiting = {**self._sent, **self._waiting}
        self._sent = {}

    def _here(self, found: Answer) -> Answer:
        here = self._teacher.adapter.device
        if self._device == here:
            return found
        return found._replace(output=map_tensors(found.output, lambda x: _moved(x, here)))


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on another device; what is one number everywhere stays that."""
    if x.dim() and not any(x.stride()):
        return x.as_strided((), ()).to(device).expand(x.shape)
    return x.to(device, non_blocking=True)
