"""A process with a teacher at the other end of a pipe."""

import contextlib
import copy
import multiprocessing
import os
import pickle
import queue
import threading
import weakref
from multiprocessing.connection import Connection
from typing import Any, Tuple

import torch
import torch.multiprocessing  # noqa: F401 - pipes then carry tensors in shared memory

from ..adapters.transport import packed
from ..errors import ConfigError
from .ahead import Request, answer
from .teacher import Teacher

Answers = queue.SimpleQueue[Any]  # of numbers and answers; at the end of an exception


class TeacherProcess:
    """Answers requests in the order in which they come; tensors are in shared memory.

    It ends by itself when this object, or the process that has it, is gone. Signals to the group of
    processes do not reach it.
    """

    def __init__(self, teacher: Teacher, device: torch.device, threads: int) -> None:
        """Start it.

        Args:
            teacher: of modules that can be pickled.
            device: where it computes.
            threads: PyTorch's.

        Raises:
            ConfigError: the teacher cannot be pickled.
        """
        try:
            content = pickle.dumps(_on_cpu(teacher))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                "DISTILL.TEACHER.AHEAD: this teacher cannot be sent to a process of its own, set "
                f"it to 0: {error}"
            ) from error
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        args = theirs, content, device, threads
        self._process = context.Process(target=_serve, args=args, daemon=True)
        self._process.start()
        theirs.close()
        self._answers: Answers = queue.SimpleQueue()
        ends = self._pipe, self._answers
        threading.Thread(target=_receive, args=ends, daemon=True).start()
        self.end = weakref.finalize(self, _end, self._pipe, self._process)

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self._process.pid or 0)

    def send(self, number: int, request: Request) -> None:
        """Ask for something.

        Raises:
            OSError: the process has ended.
        """
        self._pipe.send((number, request))

    def receive(self, seconds: float) -> Tuple[int, Any]:
        """A number and an `Answer`, or what was raised instead; waits no longer than `seconds`.

        Raises:
            queue.Empty: there is none yet.
            EOFError, OSError: the process has ended.
        """
        found = self._answers.get(block=seconds > 0, timeout=seconds)
        if isinstance(found, Exception):
            self._answers.put(found)
            raise found
        number, content = found
        return number, content

    def how_it_ended(self) -> str:
        """In words."""
        self._process.join(1)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"it was ended by signal {-code}, perhaps for want of memory"
        return f"it ended with exit code {code}"


def _on_cpu(teacher: Teacher) -> Teacher:
    """The teacher, or a copy of it."""
    if teacher.adapter.device.type == "cpu":
        return teacher
    sent = copy.deepcopy(teacher)
    sent.detector.cpu()
    return sent


def _receive(pipe: Connection, answers: Answers) -> None:
    """In a thread: tensors are fetched from the process, which may hang."""
    try:
        while True:
            answers.put(pipe.recv())
    except Exception as error:  # noqa: BLE001 - raised by `TeacherProcess.receive`
        answers.put(error if isinstance(error, OSError) else EOFError(str(error)))


def _end(pipe: Connection, process: Any) -> None:
    process.kill()
    process.join()
    pipe.close()


def _serve(pipe: Connection, content: bytes, device: torch.device, threads: int) -> None:
    """Answer requests until the other end is closed.

    Weights come by value: as shared memory each tensor would take a file descriptor.
    """
    os.setsid()
    torch.set_num_threads(threads)
    teacher: Teacher = pickle.loads(content)
    teacher.detector.to(device)
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, request = pipe.recv()
            pipe.send((number, _answer(teacher, request)))


def _answer(teacher: Teacher, request: Request) -> Any:
    """An `Answer`, or the exception there was instead."""
    try:
        found = answer(teacher, request)
        return found._replace(output=packed(found.output))
    except Exception as error:  # noqa: BLE001 - raised by the runner
        return error
