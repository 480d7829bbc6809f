"""Jobs in processes of their own through submitit: on a Slurm cluster, or on this machine."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, List, Optional

from ..errors import ConfigError
from ..file_io import has_locks
from ..text import plain
from .turns import Call, Ended, Job, Turns, is_queued

KINDS = ("local", "slurm")
_YEAR = 365 * 24 * 60  # minutes; submitit's own limit is two
_DAY = 24 * 60
_POLL = {"local": 0.1, "slurm": 5.0}  # seconds
_GPUS = "CUDA_VISIBLE_DEVICES"


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
                "write into one folder: leave --executor out, or name an output folder elsewhere."
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
        turns = Turns(self.submit, calls, busy, notes if self.kind == "slurm" else ())
        while turns.waiting or turns.running:
            turns.begin(limit)
            turns.look()
            time.sleep(_POLL[self.kind])
        return [turns.ended[i] for i in range(len(calls))]

    def wait_for_earlier(self, notes: Sequence[Path]) -> None:
        """Wait while Slurm has jobs that an earlier command noted, see `run`."""
        for note in notes if self.kind == "slurm" else ():
            if is_queued(note):
                print(f"waits for a job of Slurm that {plain(note)} names", flush=True)
            while is_queued(note):
                time.sleep(_POLL[self.kind])


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
