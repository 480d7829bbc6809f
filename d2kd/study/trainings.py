"""Running a study: one process per training, finished ones are never run again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, NamedTuple, Optional

from ..cores import usable_cores
from ..engine.jobs import Executor
from ..engine.run_folder import holds_run
from ..file_io import LOCK, holder_of, is_locked, locked, write_text
from .commands import Run
from .plan import Study
from .results import last_value, read_result, value_of

_LOCK = ".study.lock"  # in the folder of a run
_JOB = ".job"  # beside it: the number of its job in Slurm
Start = Callable[[Sequence[str], Path, Mapping[str, str], int], int]
"""Runs `python -m WORDS` to its end: words, file for what it prints, environment, a file that it
holds open (-1 for none) -> its exit code."""


def start_python(
    words: Sequence[str], console: Path, environment: Mapping[str, str], lock: int
) -> int:
    """A `Start`: a Python that begins anew.

    Args:
        words: behind `python -m`.
        console: file to which what it prints is appended.
        environment: its variables.
        lock: a file that it holds open, -1 for none.

    Returns:
        int: its exit code.
    """
    with open(console, "a", encoding="utf-8") as file:
        return subprocess.run([sys.executable, "-m", *words], stdout=file, stderr=file,
                              check=False, env=environment,
                              pass_fds=[lock] * (lock >= 0)).returncode  # fmt: skip


def run_study(
    study: Study,
    jobs: int = 1,
    executor: Optional[Executor] = None,
    threads: int = 0,
    start: Start = start_python,
) -> List[str]:
    """Run what is not finished yet.

    Args:
        study: what to run.
        jobs: trainings at the same time.
        executor: where each runs; None for a process of this one.
        threads: of each, whatever the environment says; 0: see `execute`.
        start: of those processes.

    Returns:
        List[str]: one line for each run that failed.

    Raises:
        ValueError: a finished run was made with another command.
    """
    open_runs = [run for run in study.runs if read_result(run) is None]
    print(f"{len(study.runs) - len(open_runs)} of {len(study.runs)} runs are finished", flush=True)
    if executor is not None:
        return _submit(open_runs, study.metric, jobs, executor, threads)
    with ThreadPoolExecutor(jobs) as pool:
        args = study.metric, jobs, threads, start
        ended = pool.map(lambda run: _said(execute(run, *args)), open_runs)
        return [error for error in ended if error]


def _submit(runs: List[Run], metric: str, jobs: int, executor: Executor, threads: int) -> List[str]:
    """As `run_study`, by jobs of an executor; those on one machine share its cores."""
    share = jobs if executor.kind == "local" else 1
    calls = [(execute, (run, metric, share, threads)) for run in runs]
    notes = [run.folder / _JOB for run in runs]
    ended = executor.run(calls, jobs, lambda i: is_locked(runs[i].folder / _LOCK), notes)
    errors = []
    for run, x in zip(runs, ended, strict=True):
        lost = Finished(error=f"{run.name}: its job was stopped: {x.error}")
        errors.append(_said(x.value or lost))
    return [error for error in errors if error]


class Finished(NamedTuple):
    """What there is to say of a run that ended well, or what went wrong."""

    said: str = ""
    error: str = ""


def _said(ended: Finished) -> str:
    if ended.said:
        print(ended.said, flush=True)
    return ended.error


def execute(
    run: Run, metric: str, jobs: int = 1, threads: int = 0, start: Start = start_python
) -> Finished:
    """Run one training in a process of its own and store its result.

    An interrupted run starts again from its last checkpoint. With several `jobs` at the same time
    it gets its part of the cores, unless OMP_NUM_THREADS is set. Where another process is at this
    run it is waited for; its training holds the lock, too, and may go on where that is killed.
    """
    with locked(run.folder / _LOCK, wait=True) as lock:
        if found := read_result(run):
            value = value_of(run, found, metric)
            return Finished(f"{run.name}: {metric} {value:.1f}, by another process")
        return _train(run, metric, jobs, threads, lock, start)


def _train(run: Run, metric: str, jobs: int, threads: int, lock: int, start: Start) -> Finished:
    _wait_for_others(run)
    resume = ["--resume"] if holds_run(run.folder) else []
    part = {"OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))} if jobs > 1 else {}
    own = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    words = [*run.command[:3], *resume, *run.command[3:]]
    begun, console = time.time(), run.folder / "console.txt"
    code = start(words, console, {**part, **os.environ, **own}, lock)
    value = None if code else last_value(run.folder / "metrics.json", metric)
    if value is None:
        reason = f"exit code {code}" if code else f"no {metric} was logged"
        return Finished(error=f"{run.name}: {reason}, see {console}")
    result = {"command": run.command, metric: value, "seconds": round(time.time() - begun)}
    write_text(run.folder / "result.json", json.dumps(result, indent=1))
    return Finished(f"{run.name}: {metric} {value:.1f}, {result['seconds']} s")


def _wait_for_others(run: Run) -> None:
    """Wait for a training that no study has started, or whose study was killed."""
    lock = run.folder / LOCK
    if holder := holder_of(lock):
        print(f"{run.name}: waits for {holder}, which trains into {run.folder}", flush=True)
    with locked(lock, wait=True):
        pass
