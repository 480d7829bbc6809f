"""Jobs in processes of their own through submitit: on a Slurm cluster, or on this machine."""

import os
import re
import signal
import subprocess
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Tuple

from ..errors import ConfigError
from ..file_io import has_locks, read_head
from ..text import plain

KINDS = ("local", "slurm")
_YEAR = 365 * 24 * 60  # minutes; submitit's own limit is two
_DAY = 24 * 60
_POLL = {"local": 0.1, "slurm": 5.0}  # seconds
_PATIENCE = 60.0  # seconds, for an answer of Slurm's
_GPUS = "CUDA_VISIBLE_DEVICES"
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


class Executor:
    """Submits jobs; they go on if this process ends.

    Attributes:
        kind: local or slurm.
    """

    def __init__(
        self, kind: str, folder: Path, options: Optional[Mapping[str, str]] = None
    ) -> None:
        """Set where jobs run.

        Args:
            kind: one of `KINDS`.
            folder: of submitit's files and logs; each executor has a new one in it, so that no
                pickle is read that others have put there.
            options: of Slurm, as sbatch has them, such as partition; time is in minutes.

        Raises:
            ConfigError: submitit or Slurm is not installed, or does not know an option; or the
                file system has no locks.
        """
        self.kind = kind
        try:
            import submitit
        except ImportError:
            raise ConfigError("--executor needs submitit: pip install d2kd[cluster].") from None
        own = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        own.mkdir(0o700, parents=True)
        if not has_locks(own):
            raise ConfigError(
                f"--executor: the file system of {folder} has no locks, so that two jobs could "
                "train into one folder: leave --executor out, or name a folder elsewhere in the "
                "plan (output: FOLDER)."
            )
        try:
            self._executor = submitit.AutoExecutor(own, cluster=kind)
            self._executor.update_parameters(timeout_min=_DAY if kind == "slurm" else _YEAR)
            given = {f"slurm_{k}": int(v) if v.isdigit() else v for k, v in (options or {}).items()}
            self._executor.update_parameters(**given)
        except (RuntimeError, ValueError, NameError) as error:
            raise ConfigError(f"--executor {kind}: {plain(error, 500)}") from None

    def submit(self, function: Callable[..., Any], *args: Any) -> Job:
        """Let a function of a module run with arguments that can be pickled."""
        return self._executor.submit(_begin, os.environ.get(_GPUS), function, *args)

    def run(
        self,
        calls: Sequence[Call],
        limit: int,
        busy: Callable[[int], bool] = lambda index: False,
        notes: Sequence[Path] = (),
    ) -> List[Ended]:
        """Run calls, so many at the same time, and give what became of each.

        Args:
            calls: functions and arguments, begun in this order.
            limit: jobs at the same time, those of others that are `busy` among them.
            busy: whether another process, such as a job of a scheduler that was killed, is at the
                same; it is waited for then, and the call follows, which finds what was done.
            notes: a file of each call, which gets the number of its job in Slurm; a job that one
                names from before is waited for as well, while it is queued or runs.
        """
        known = notes if self.kind == "slurm" else ()

        def taken(index: int) -> bool:
            return busy(index) or (bool(known) and is_queued(known[index]))

        def call(index: int) -> Job:
            job = self.submit(calls[index][0], *calls[index][1])
            for path in known[index : index + 1]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(str(job.job_id))
            return job

        waiting = deque(range(len(calls)))
        running: Dict[int, Optional[Job]] = {}
        ended: Dict[int, Ended] = {}
        while waiting or running:
            while waiting and len(running) < limit:
                i = waiting.popleft()
                running[i] = None if taken(i) else call(i)
            for i, job in list(running.items()):
                if job is None and not taken(i):
                    running[i] = call(i)
                elif job is not None and job.done():
                    found = _outcome(job)
                    if found.error and busy(i):  # what a killed job has started goes on
                        running[i] = None
                        continue
                    ended[i] = found
                    del running[i]
            time.sleep(_POLL[self.kind])
        return [ended[i] for i in range(len(calls))]


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


def _begin(gpus: Optional[str], function: Callable[..., Any], *args: Any) -> Ended:
    """In the job: the GPUs of who submitted it, where submitit's local executor hides them.

    What it starts ignores the warning that Slurm sends before the time is up, and is stopped by
    SIGTERM.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        os.environ.pop(_GPUS, None)
        os.environ.update({} if gpus is None else {_GPUS: gpus})
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        return Ended(function(*args))
    except Exception as error:  # noqa: BLE001 - who submitted it says so
        traceback.print_exc()
        return Ended(None, plain(f"{type(error).__name__}: {error}".split("\n")[0], 500))


def _outcome(job: Job) -> Ended:
    try:
        found: Ended = job.result()
    except Exception:  # noqa: BLE001 - submitit's: there is no result
        return Ended(None, f"it was stopped, what it said is in {job.paths.stderr}")
    return found
