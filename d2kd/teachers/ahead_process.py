"""A teacher that computes the next batches in a process of its own."""

import contextlib
import copy
import logging
import multiprocessing
import os
import pickle
import time
import weakref
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Dict, Optional

import torch
import torch.multiprocessing  # noqa: F401 - connections then carry tensors in shared memory

from ..adapters.transport import map_tensors, packed
from ..errors import ConfigError
from .ahead import Answer, Request, answer
from .teacher import Teacher

_SENT = 2  # requests in the pipe; more could fill it from both ends
_GONE = (EOFError, OSError)  # ConnectionError too: what a pipe says whose other end has died


class ProcessRunner:
    """A teacher in a process, with tensors in shared memory (between GPUs: CUDA IPC).

    A process that dies or does not answer in time is replaced once; the second one that does leaves
    the runner lost. The process ends by itself when this one is gone, however that happened.
    """

    def __init__(
        self, teacher: Teacher, device: torch.device, threads: int = 0, deadline: float = 600.0
    ) -> None:
        """Start nothing yet.

        Args:
            teacher: complete, of modules that can be pickled; as it is when the first batch comes.
            device: where the process computes.
            threads: PyTorch's in the process, 0 for as many as this process has.
            deadline: seconds for one batch, the start of a process included.
        """
        self.lost = ""
        self._teacher, self._device = teacher, device
        self._threads, self._deadline = threads, deadline
        self._waiting: Dict[int, Request] = {}
        self._sent: Dict[int, Request] = {}
        self._done: Dict[int, Answer] = {}
        self._failed: Dict[int, Exception] = {}
        self._connection: Optional[Connection] = None
        self._since, self._starts = 0.0, 0
        self._end: Callable[[], Any] = lambda: None

    def submit(self, number: int, request: Request) -> None:
        """See `Runner`."""
        if not self.lost:
            self._waiting[number] = request
            self._exchange()

    def take(self, number: int) -> Optional[Answer]:
        """See `Runner`; raises what the teacher raised."""
        while not self.lost and number not in self._done and number not in self._failed:
            self._exchange(blocking=True)
        if number in self._failed:
            raise self._failed.pop(number)
        return self._done.pop(number, None)

    def close(self) -> None:
        """See `Runner`."""
        for held in (self._waiting, self._sent, self._done, self._failed):
            held.clear()
        self._end()

    def _exchange(self, blocking: bool = False) -> None:
        """Send what the pipe takes and receive what is there, or the next answer."""
        try:
            if self._connection is None:
                self._start()
            connection = self._connection
            assert connection is not None
            self._send(connection)
            if blocking:
                self._await(connection)
            while connection.poll():
                self._receive(*connection.recv())
            self._send(connection)
        except _GONE as error:
            self._replace(error)

    def _send(self, connection: Connection) -> None:
        while self._waiting and len(self._sent) < _SENT:
            number = next(iter(self._waiting))
            self._since = self._since if self._sent else time.monotonic()
            self._sent[number] = self._waiting.pop(number)
            connection.send((number, self._sent[number]))

    def _await(self, connection: Connection) -> None:
        """Wait for an answer or an end.

        Raises:
            TimeoutError: there is none in time.
        """
        left = self._since + self._deadline - time.monotonic()
        if not wait([connection, self._process.sentinel], max(left, 0)):
            raise TimeoutError(f"no answer in {self._deadline:.0f} s (DISTILL.TEACHER.DEADLINE)")
        if not connection.poll():
            raise EOFError

    def _receive(self, number: int, found: Any) -> None:
        del self._sent[number]
        self._since = time.monotonic()
        if isinstance(found, Exception):
            self._failed[number] = found
            return
        there, here = self._device, self._teacher.adapter.device
        if there != here:
            output = map_tensors(found.output, lambda x: x.to(here, non_blocking=True))
            found = found._replace(output=output)
        self._done[number] = found

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._starts += 1
        self._since = time.monotonic()
        threads = self._threads or torch.get_num_threads()
        args = theirs, _for_process(self._teacher), self._device, threads
        self._process = context.Process(target=_serve, args=args, daemon=True)
        try:
            self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                "DISTILL.TEACHER.AHEAD: this teacher cannot be sent to a process of its own, set "
                f"it to 0: {error}"
            ) from error
        theirs.close()
        self._end = weakref.finalize(self, _end, self._connection, self._process)

    def _replace(self, error: Exception) -> None:
        """Start anew with what was sent and is not answered, or be lost."""
        self._process.join(1)
        code = self._process.exitcode
        self._end()
        self._connection = None
        reason = str(error) or (
            f"it was ended by signal {-code}, perhaps for want of memory"
            if code is not None and code < 0
            else f"exit code {code}"
        )
        if self._starts > 1:
            self.lost = f"the teacher's process has ended again: {reason}"
            return
        logging.getLogger(__name__).warning(
            "The teacher's process is started again: %s. This happens once.", reason
        )
        self._waiting = {**self._sent, **self._waiting}
        self._sent = {}


def _for_process(teacher: Teacher) -> Teacher:
    """What is sent: on the CPU, whose memory the processes share."""
    if teacher.adapter.device.type == "cpu":
        return teacher
    sent = copy.deepcopy(teacher)
    sent.detector.cpu()
    return sent


def _end(connection: Connection, process: Any) -> None:
    connection.close()
    process.kill()
    process.join()


def _serve(connection: Connection, teacher: Teacher, device: torch.device, threads: int) -> None:
    """Answer requests until the other end is closed.

    Signals to the group of processes are for those who train.
    """
    os.setsid()
    torch.set_num_threads(threads)
    teacher.detector.to(device)
    with contextlib.suppress(*_GONE):
        while True:
            number, request = connection.recv()
            connection.send((number, _answer(teacher, request)))


def _answer(teacher: Teacher, request: Request) -> Any:
    """An `Answer`, or the exception there was instead."""
    try:
        found = answer(teacher, request)
        return found._replace(output=packed(found.output))
    except Exception as error:  # noqa: BLE001 - raised by `ProcessRunner.take`
        return error
