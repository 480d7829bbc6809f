"""Stages that wait for no imports, which take longer than two steps do."""

import os
import runpy
import sys
from functools import cache
from multiprocessing import get_context, get_start_method, parent_process, set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Dict, Mapping, Sequence

from ..study.trainings import start_python

_IMPORTED = ["d2kd.cli.train", "d2kd.engine.main"]
_READ_AT_IMPORT = (  # how variables begin that imports read, or Python itself
    "DETECTRON2_DATASETS", "GOMP_", "HF_", "KMP_", "LD_", "MKL_", "OMP_", "PYTHON", "PYTORCH_",
    "TORCH",
)  # fmt: skip


def start_fork(
    words: Sequence[str], console: Path, environment: Mapping[str, str], lock: int
) -> int:
    """A `Start`: the fork of a process that has imported what a training needs and done no more.

    That process, multiprocessing's fork server, begins with the first stage and lives until the
    caller ends. What its imports read of the environment, such as OMP_NUM_THREADS, is what stood
    there then: a stage for which it differs is one of `start_python`, as all are outside Linux. A
    server that the caller had begun before has imported what the caller said. A script that calls
    this needs `if __name__ == "__main__":`, since forks import it.

    Args:
        words: behind `python -m`.
        console: file to which what it prints is appended.
        environment: its variables.
        lock: not held by the fork, which ends with who started it instead.

    Returns:
        int: its exit code.
    """
    if sys.platform != "linux" or _read_at_import(environment) != _of_server():
        return start_python(words, console, environment, lock)
    context, method = get_context("forkserver"), get_start_method(allow_none=True)
    context.set_forkserver_preload(_IMPORTED)
    process = context.Process(target=_run, args=(list(words), str(console), dict(environment)))
    process.start()
    set_start_method(method, force=True)  # a start chooses one for the caller
    process.join()
    return int(process.exitcode or 0)


@cache
def _of_server() -> Dict[str, str]:
    """What the imports of the server read: it begins as this is called first."""
    return _read_at_import(os.environ)


def _read_at_import(environment: Mapping[str, str]) -> Dict[str, str]:
    return {key: x for key, x in environment.items() if key.startswith(_READ_AT_IMPORT)}


def _run(words: Sequence[str], console: str, environment: Mapping[str, str]) -> None:
    """`python -m WORDS`."""
    Thread(target=_end_after, args=[parent_process()], daemon=True).start()
    with open(console, "a", encoding="utf-8") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    set_start_method(None, force=True)  # of its loaders' workers: as Python chooses
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, os.getcwd())
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _end_after(starter: BaseProcess) -> None:
    """A killed starter lets go of the lock, and what it started must not write any more."""
    starter.join()
    os._exit(1)
