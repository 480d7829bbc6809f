"""Running a plan: one evaluation after another, finished ones are never run again."""

import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import (
    get_all_start_methods,
    get_context,
    get_start_method,
    set_start_method,
)
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch

from ..config.defaults import get_d2kd_cfg
from ..config.keys import flatten
from ..cores import share_cores
from ..engine.jobs import Executor
from ..engine.main import import_files
from ..engine.provenance import dataset_fingerprint, json_values
from ..errors import ConfigError, RunError
from ..file_io import LOCK, locked, write_atomically
from ..text import file_name, plain
from .cells import Cell
from .plan import Plan
from .subject import Results, Subject, evaluate_cell, load_subject

_SECTIONS = ("MODEL.", "INPUT.", "TEST.")
_FREE = ("MODEL.WEIGHTS", "MODEL.DEVICE")


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
        ConfigError: a config, checkpoint or data set that does not fit, or a result that was made
            with other settings.
    """
    subjects = load_subjects(plan)
    pairs = [(subject, cell) for subject in subjects for cell in plan.cells]
    missing = [
        (subject.name, cell) for subject, cell in pairs if read_result(plan, subject, cell) is None
    ]
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


def _submit(
    plan: Plan, shares: List[List[Tuple[str, Cell]]], imports: Sequence[str], executor: Executor
) -> None:
    count, threads = len(shares), torch.get_num_threads()
    start = imports, count if executor.kind == "local" else 1, threads, get_start_method()
    calls = [(_submitted, (start, plan, share, i)) for i, share in enumerate(shares)]
    errors = [x.error for x in executor.run(calls, max(count, 1)) if x.error]
    if errors:
        raise RunError(f"evaluations were stopped: {errors[0]} The same command goes on.")


def _submitted(start: Tuple, plan: Plan, share: List[Tuple[str, Cell]], number: int) -> None:
    _start(*start)
    _job(plan, share, number)


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


def _job(plan: Plan, share: List[Tuple[str, Cell]], number: int) -> None:
    """A share of the evaluations, on one of the GPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    _run(plan, load_subjects(plan), share)


def _run(plan: Plan, subjects: List[Subject], share: List[Tuple[str, Cell]]) -> None:
    """Evaluations of models by name, one after another."""
    by_name = {subject.name: subject for subject in subjects}
    for name, cell in share:
        lock = result_path(plan, name, cell).with_suffix(LOCK)
        with locked(lock, wait=True):  # another scheduler's job may be at it
            if read_result(plan, by_name[name], cell) is None:
                _evaluate(plan, by_name[name], cell)


def _evaluate(plan: Plan, subject: Subject, cell: Cell) -> None:
    start = time.time()
    results = evaluate_cell(plan, subject, cell)
    seconds = round(time.time() - start, 1)
    write_result(plan, subject, cell, {"seconds": seconds, "results": results})
    ap = results["bbox"]["AP"]
    print(f"{plain(subject.name)}, {plain(cell.name)}: AP {ap:.1f}, {seconds} s", flush=True)


def load_subjects(plan: Plan) -> List[Subject]:
    """Read the configs of all models.

    Raises:
        ConfigError: see `load_subject`, or the models are tested on different data.
    """
    subjects = [load_subject(plan, name) for name in plan.models]
    tested = {x.name: x.cfg.DATASETS.TEST[0] for x in subjects}
    if len({dataset_fingerprint(name) or name for name in tested.values()}) > 1:
        raise ConfigError(
            f"the models are tested on different data sets: {tested}. Name one in the plan: "
            "dataset, and its entry in datasets if no config registers it."
        )
    return subjects


def identity(plan: Plan, subject: Subject, cell: Cell) -> Dict[str, Any]:
    """What a result depends on: weights, model, data and the cell's options."""
    # through JSON, where a tuple of the defaults and a list of a run's yaml are the same
    defaults, values = (json.loads(json.dumps(flatten(x))) for x in (get_d2kd_cfg(), subject.cfg))
    changed = {key: x for key, x in values.items() if defaults.get(key) != x}
    dataset = cell.options.get("dataset", subject.cfg.DATASETS.TEST[0])
    return {
        "weights": next(iter(subject.run["weights"].values())),
        "config": {k: x for k, x in changed.items() if k.startswith(_SECTIONS) and k not in _FREE},
        "dataset": {dataset: dataset_fingerprint(dataset)},
        "images": plan.images,
        "cell": json_values(cell.options),
    }


def result_path(plan: Plan, model: str, cell: Cell) -> Path:
    """The file of one result."""
    return plan.output / file_name(model) / f"{file_name(cell.name)}.json"


def write_result(plan: Plan, subject: Subject, cell: Cell, result: Dict[str, Any]) -> None:
    """Store a result with its identity and circumstances."""
    path = result_path(plan, subject.name, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"identity": identity(plan, subject, cell), **json_values(result), "run": subject.run}
    text = json.dumps(data, indent=1)
    write_atomically(path, lambda part: part.write_text(text))


def read_result(plan: Plan, subject: Subject, cell: Cell) -> Optional[Results]:
    """The stored result of an evaluation, None if it is not finished.

    Raises:
        ConfigError: it was made with other settings.
    """
    path = result_path(plan, subject.name, cell)
    if not path.is_file():
        return None
    data = json.loads(path.read_text())
    now = json.loads(json.dumps(identity(plan, subject, cell)))
    if other := [key for key in now if data["identity"].get(key) != now[key]]:
        raise ConfigError(
            f"{path} was made with another {' and '.join(other)}. Remove it to evaluate again, or "
            "give the plan another output folder."
        )
    return data["results"]


def collect(plan: Plan) -> Dict[str, Dict[str, Results]]:
    """Every finished result: model -> cell -> results."""
    found = {}
    for subject in load_subjects(plan):
        results = {cell.name: read_result(plan, subject, cell) for cell in plan.cells}
        found[subject.name] = {cell: x for cell, x in results.items() if x is not None}
    return found
