"""Running a plan: one evaluation after another, finished ones are never run again."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import (
    get_all_start_methods,
    get_context,
    get_start_method,
    set_start_method,
)
from multiprocessing.context import BaseContext
from typing import List, Optional, Sequence, Tuple

import torch

from ..cores import share_cores
from ..engine.command_line import import_files
from ..engine.jobs import Executor
from ..errors import RunError
from ..file_io import LOCK, locked
from ..text import plain
from .cells import Cell
from .plan import Plan
from .results import load_subjects, read_result, result_path, write_result
from .subject import Subject, check_images, evaluate_cell

_JOB = ".job-"  # in the folder of results, with a number behind it: a share's job in Slurm
Share = List[Tuple[str, Cell]]


def run_plan(
    plan: Plan,
    jobs: int = 1,
    imports: Sequence[str] = (),
    executor: Optional[Executor] = None,
) -> None:
    """Run what is not finished yet and store every result.

    Args:
        plan: models and their evaluations.
        jobs: evaluations at the same time, in processes of their own and on a GPU of their own
            where there are several.
        imports: Python files that these processes execute first; this one does not.
        executor: where they run; None for this process, or processes of it.

    Raises:
        RunError: a job of the executor was stopped.
        ConfigError: a config, checkpoint or data set that does not fit, an image that is too small
            for corruptions, or a result that was made with other settings.
    """
    if executor is not None:
        executor.wait_for_earlier(sorted(plan.output.glob(f"{_JOB}*")))
    subjects = load_subjects(plan)
    pairs = [(subject, cell) for subject in subjects for cell in plan.cells]
    missing = [
        (subject.name, cell) for subject, cell in pairs if read_result(plan, subject, cell) is None
    ]
    check_images(plan, subjects[0], (cell for _, cell in missing))
    print(f"{len(pairs) - len(missing)} of {len(pairs)} evaluations are finished", flush=True)
    for x in subjects:
        print(f"{plain(x.name)}: {plain(x.cfg.MODEL.WEIGHTS)}", flush=True)
    jobs = min(jobs, len(missing))
    shares = [missing[i::jobs] for i in range(jobs)]
    if executor is not None:
        return _submit(plan, shares, imports, executor)
    if jobs <= 1:
        _run(plan, subjects, missing)
        return
    start = imports, jobs, torch.get_num_threads(), get_start_method()
    with ProcessPoolExecutor(jobs, _context(), _start, start) as pool:
        list(pool.map(_job, [plan] * jobs, shares, range(jobs)))


def _submit(plan: Plan, shares: List[Share], imports: Sequence[str], executor: Executor) -> None:
    count, threads = len(shares), torch.get_num_threads()
    start = imports, count if executor.kind == "local" else 1, threads, get_start_method()
    calls = [(_submitted, (start, plan, share, i)) for i, share in enumerate(shares)]
    notes = [plan.output / f"{_JOB}{i}" for i in range(count)]
    ended = executor.run(calls, max(count, 1), notes=notes)
    for line in (line for x in ended for line in x.value or []):
        print(line, flush=True)
    if errors := [x.error for x in ended if x.error]:
        said = "; ".join(dict.fromkeys(x.rstrip(".") for x in errors))
        raise RunError(f"evaluations were stopped: {said}. The same command does what is missing.")


def _submitted(start: Tuple, plan: Plan, share: Share, number: int) -> List[str]:
    _start(*start)
    return _job(plan, share, number)


def _context() -> BaseContext:
    """Processes that have nothing of this one, and whose imports are done once where it can be."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _start(imports: Sequence[str], jobs: int, threads: int, method: str) -> None:
    """Prepare a process: files of the user, its part of the CPU's cores and threads, its workers.

    Workers of its loaders start by `method`, which needs no imports where that can be.
    """
    set_start_method(method, force=True)
    share_cores(jobs)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), threads // jobs)))
    import_files(imports)


def _job(plan: Plan, share: Share, number: int) -> List[str]:
    """A share of the evaluations, on one of the GPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    return _run(plan, load_subjects(plan), share)


def _run(plan: Plan, subjects: List[Subject], share: Share) -> List[str]:
    """Evaluations of models by name, one after another; what was said of each."""
    by_name = {subject.name: subject for subject in subjects}
    said = []
    for name, cell in share:
        lock = result_path(plan, name, cell).with_suffix(LOCK)
        with locked(lock, wait=True):  # another scheduler's job may be at it
            if read_result(plan, by_name[name], cell) is None:
                said.append(_evaluate(plan, by_name[name], cell))
    return said


def _evaluate(plan: Plan, subject: Subject, cell: Cell) -> str:
    start = time.time()
    results = evaluate_cell(plan, subject, cell)
    seconds = round(time.time() - start, 1)
    write_result(plan, subject, cell, {"seconds": seconds, "results": results})
    ap = results["bbox"]["AP"]
    line = f"{plain(subject.name)}, {plain(cell.name)}: AP {ap:.1f}, {seconds} s"
    print(line, flush=True)
    return line
