"""Calls that are jobs elsewhere: whose turn it is, what became of each, what Slurm has queued."""

import re
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Protocol, Tuple

from ..file_io import read_head, write_text

_PATIENCE = 60.0  # seconds, for an answer of Slurm's
Call = Tuple[Callable[..., Any], Tuple[Any, ...]]


class Job(Protocol):
    """What submitit gives for a function that runs elsewhere."""

    @property
    def job_id(self) -> str:
        """Slurm's number of it."""

    @property
    def paths(self) -> Any:
        """Of its files."""

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""

    def result(self) -> Any:
        """What `_begin` returned; raises if it did not."""


class Ended(NamedTuple):
    """What a job's function returned or, if it was stopped or raised, why there is nothing."""

    value: Any
    error: str = ""


class Turns:
    """Calls that wait for their turn, run or have ended, by index.

    Attributes:
        waiting: not begun.
        running: with their jobs; None where another process is at the same.
        ended: what became of each.
    """

    def __init__(
        self,
        submit: Callable[..., Job],
        calls: Sequence[Call],
        busy: Callable[[int], bool],
        notes: Sequence[Path],
    ) -> None:
        """See `Executor.run`."""
        self.waiting = deque(range(len(calls)))
        self.running: Dict[int, Optional[Job]] = {}
        self.ended: Dict[int, Ended] = {}
        self._submit, self._calls, self._busy, self._notes = submit, calls, busy, notes

    def begin(self, limit: int) -> None:
        """Begin calls until so many run."""
        while self.waiting and len(self.running) < limit:
            index = self.waiting.popleft()
            self.running[index] = self._job(index)

    def look(self) -> None:
        """Note what has ended, and begin what others were at."""
        for index, job in list(self.running.items()):
            if job is None:
                self.running[index] = self._job(index)
            elif job.done():
                self._end(index, _outcome(job))

    def _job(self, index: int) -> Optional[Job]:
        own = self._notes[index : index + 1]
        if self._busy(index) or any(map(is_queued, own)):
            return None
        function, args = self._calls[index]
        job = self._submit(function, *args)
        for note in own:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_text(note, str(job.job_id))
        return job

    def _end(self, index: int, found: Ended) -> None:
        if found.error and self._busy(index):  # what a killed job has started goes on
            self.running[index] = None
            return
        self.ended[index] = found
        del self.running[index]


def is_queued(note: Path) -> bool:
    """Whether Slurm has the job that a file names, waiting or running; also if it does not say."""
    number = read_head(note, 20).decode(errors="replace").strip()
    if not re.fullmatch(r"[0-9]{1,12}", number):
        return False
    try:
        command = ["squeue", "--noheader", "--format=%T", "--jobs", number]
        found = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return True
    except OSError:
        return False
    if found.returncode:
        return "Invalid job id" not in found.stderr
    return bool(found.stdout.strip())


def _outcome(job: Job) -> Ended:
    try:
        found: Ended = job.result()
    except Exception:  # noqa: BLE001 - submitit's: there is no result
        return Ended(None, f"it was stopped, what it said is in {job.paths.stderr}")
    return found
