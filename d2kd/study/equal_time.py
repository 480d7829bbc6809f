"""Steps of the same time: rows that train for as long as another row, whose steps cost more."""

from typing import List, Optional

import torch

from ..cores import share_cores
from ..engine.command_line import config_of
from ..engine.jobs import Executor
from ..engine.pace import Pace, device_name, measure_pace
from ..errors import RunError
from ..file_io import LOCK, locked, write_yaml
from ..text import file_name, plain
from .found import PACE, read_paces
from .plan import Study


def measure_paces(study: Study, jobs: int = 1, executor: Optional[Executor] = None) -> List[str]:
    """Time the steps of each row with `time_of` and of that row, unless pace.yaml has them.

    Args:
        study: its teachers are trained.
        jobs: trainings at the same time, as for `run_study`: they share the cores.
        executor: where trainings run, and steps are timed; None for this machine.

    Returns:
        List[str]: one line for each row that could not be timed.
    """
    failed = []
    for name, row in study.data["rows"].items():
        if "time_of" in row and name not in study.only_named:
            try:
                _measure_there(study, name, row["time_of"], jobs, executor)
            except (ValueError, OSError, RuntimeError) as error:
                failed.append(f"{plain(name)}: its steps could not be timed: {error}")
    return failed


def _measure_there(
    study: Study, name: str, other: str, jobs: int, executor: Optional[Executor]
) -> None:
    if executor is not None:
        note = study.output / f".{file_name(name)}.job"
        executor.wait_for_earlier([note])
        if not _is_timed(study, name, other):
            share = jobs if executor.kind == "local" else 1
            (ended,) = executor.run([(_measure, (study, name, other, share))], 1, notes=[note])
            if ended.error:
                raise RunError(ended.error)
            if not _is_timed(study, name, other):
                raise RunError(f"its job has ended, but {study.output / PACE} lacks the times.")
    _measure(study, name, other, jobs)


def _measure(study: Study, name: str, other: str, jobs: int) -> None:
    with locked(study.output / f".{PACE}{LOCK}", wait=True):  # a job of a command that was killed
        _measure_alone(study, name, other, jobs)


def _is_timed(study: Study, name: str, other: str) -> bool:
    found = read_paces(study.data).get(name, {})
    return found.get("commands") == [study.trained[name], study.trained[other]]


def _measure_alone(study: Study, name: str, other: str, jobs: int) -> None:
    commands = [list(study.trained[x]) for x in (name, other)]
    configs = [config_of(words) for words in commands]
    found = read_paces(study.data)
    if not _is_timed(study, name, other):
        print(f"{plain(name)}: its steps and those of {plain(other)} are timed", flush=True)
        share_cores(jobs)
        pace = measure_pace(*configs)
        found[name] = {"time_of": other, "ratio": round(pace.ratio, 3), "turns": pace.turns,
                       "seconds": round(pace.plain, 4), "commands": commands,
                       "device": device_name(), "threads": torch.get_num_threads()}  # fmt: skip
    pace = Pace(found[name]["seconds"], found[name]["ratio"])
    found[name]["steps"] = pace.matched_steps(configs[1].SOLVER.MAX_ITER)
    write_yaml(study.output / PACE, found)
