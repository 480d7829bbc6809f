"""Stages that wait for no imports, which take longer than two steps do."""

import os
import runpy
import sys
from multiprocessing import get_all_start_methods, get_context, get_start_method, set_start_method
from pathlib import Path
from typing import Mapping, Sequence

from ..study.trainings import start_python

_IMPORTED = ["d2kd.cli.train", "d2kd.engine.main"]


def start_fork(
    words: Sequence[str], console: Path, environment: Mapping[str, str], lock: int
) -> int:
    """A `Start`: the fork of a process that has imported what a training needs and done no more.

    The lock stays with who started it. Where there are no such forks, it is `start_python`.
    """
    if "forkserver" not in get_all_start_methods():
        return start_python(words, console, environment, lock)
    context = get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    args = list(words), str(console), dict(environment), get_start_method()
    process = context.Process(target=_run, args=args)
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _run(words: Sequence[str], console: str, environment: Mapping[str, str], method: str) -> None:
    """`python -m WORDS`; workers of its loaders start by `method`, as there."""
    with open(console, "a", encoding="utf-8") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    set_start_method(method, force=True)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
