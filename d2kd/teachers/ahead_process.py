"""A process with a teacher at the other end of a pipe."""

import logging
import multiprocessing
import os
import pickle
import queue
import threading
import weakref
from multiprocessing.connection import Connection
from typing import Any, Dict, List, Tuple

import torch
import torch.multiprocessing  # noqa: F401 - pipes then carry tensors in shared memory

from ..adapters.transport import packed
from ..errors import ConfigError, ignore_warnings_of_dependencies
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
        content = content_of(teacher)
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        args = theirs, content, device, _numerics(threads)
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


def content_of(teacher: Teacher) -> bytes:
    """A teacher by value, its weights on the CPU.

    Raises:
        ConfigError: it has something that cannot be pickled.
    """
    device = teacher.adapter.device
    try:
        teacher.detector.cpu()
        return pickle.dumps(teacher)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise ConfigError(
            "DISTILL.TEACHER.AHEAD: this teacher cannot be sent to a process of its own, set "
            f"it to 0: {error}"
        ) from error
    finally:
        teacher.detector.to(device)


def _numerics(threads: int) -> Dict[str, Any]:
    """What the numbers of this process depend on beside its inputs."""
    return {
        "threads": threads,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "matmul": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
    }


def _apply_numerics(numerics: Dict[str, Any], device: torch.device) -> None:
    torch.set_num_threads(numerics["threads"])
    torch.use_deterministic_algorithms(numerics["deterministic"], warn_only=True)
    torch.backends.cudnn.benchmark = numerics["benchmark"]
    torch.set_float32_matmul_precision(numerics["matmul"])
    torch.backends.cudnn.allow_tf32 = numerics["tf32"]
    if device.type == "cuda":
        torch.cuda.set_device(device)


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


def _serve(
    pipe: Connection, content: bytes, device: torch.device, numerics: Dict[str, Any]
) -> None:
    """Answer requests until the other end is closed.

    Weights come by value: as shared memory each tensor would take a file descriptor.
    """
    os.setsid()
    ignore_warnings_of_dependencies()
    _apply_numerics(numerics, device)
    teacher: Teacher = pickle.loads(content)
    teacher.detector.to(device)
    said = _Kept()
    logging.getLogger("d2kd").addHandler(said)
    with torch.jit.optimized_execution(device.type == "cuda"):
        while True:
            try:
                number, request = pipe.recv()
            except (EOFError, ConnectionError):
                return
            found = _answer(teacher, request, said)
            try:
                pipe.send((number, found))
            except ConnectionError:
                return


class _Kept(logging.Handler):
    """Keeps what is logged for the process that has the log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: List[Tuple[int, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append((record.levelno, record.name, record.getMessage()))

    def taken(self) -> Tuple[Tuple[int, str, str], ...]:
        """What was kept since the last time."""
        records, self.records = self.records, []
        return tuple(records)


def _answer(teacher: Teacher, request: Request, said: _Kept) -> Any:
    """An `Answer`, or the exception there was instead."""
    try:
        found = answer(teacher, request)
        return found._replace(output=packed(found.output), said=said.taken())
    except Exception as error:  # noqa: BLE001 - raised by the runner
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - whatever the class of the error does
            return RuntimeError(f"{type(error).__name__}: {error}")
        return error
