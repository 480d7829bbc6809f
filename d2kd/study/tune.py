"""Tuning: as many tries for every row of `tune`, on images that the study does not report."""

import math
from typing import Any, Dict, List, Optional

from ..engine.command_line import config_of
from ..engine.jobs import Executor
from ..errors import ConfigError
from ..file_io import check_output, write_yaml
from ..text import plain, shell
from .commands import teacher_of
from .equal_time import measure_paces
from .found import read_tuned, tuned_file
from .plan import Study, build_study
from .results import read_result, value_of
from .trainings import run_study


def run_plan(study: Study, jobs: int = 1, executor: Optional[Executor] = None) -> List[str]:
    """Train the teachers, time steps where rows have `time_of`, then run all that is not finished.

    Args:
        study: see `check_tuned`.
        jobs: trainings at the same time.
        executor: where they run; None for processes of this one.

    Returns:
        List[str]: one line for each run that failed.
    """
    if study.teachers and (failed := run_study(study.only(study.teachers), jobs, executor)):
        return failed
    failed = measure_paces(study, jobs, executor)
    found = study.with_what_was_found()
    rows = found.only(x for x in found.rows if x not in found.untimed)
    return failed + run_study(rows, jobs, executor)


def check_tuned(study: Study) -> None:
    """Rows that take options from `tune` need what it chose, with the tries of the plan.

    Raises:
        ConfigError: it was not tuned, or with other tries.
    """
    file, todo = (
        tuned_file(study.data),
        f"run {shell('d2kd', 'study', study.path, '--tune')} first.",
    )
    if study.untuned:
        todo = todo if "tune" in study.data else "it is another study's, with these rows in `tune`."
        raise ConfigError(f"{study.path}: {file} lacks what rows {study.untuned} take: {todo}")
    found = read_tuned(study.data)
    if found and "tune" in study.data and found.get("tune") != _section(study):
        raise ConfigError(f"{study.path}: {file} was written for another `tune`: {todo}")


def tune_study(study: Study, jobs: int = 1, executor: Optional[Executor] = None) -> List[str]:
    """Run every try of the plan's `tune`, and write the best of each row when all are done.

    A try that fails, as by a learning rate that diverges, counts as the worst of its row.

    Args:
        study: its yaml has `tune`.
        jobs: trainings at the same time.
        executor: where they run; None for processes of this one.

    Returns:
        List[str]: if a teacher or all tries of a row failed, one line for each; nothing is written
            then.

    Raises:
        ConfigError: there is no `tune`, a row is trained or tested on its images, or the file to
            write is that of another study.
    """
    if "tune" not in study.data:
        raise ConfigError(f"{study.path} has nothing to tune: write `tune` into it.")
    check_images(study)
    check_output(file := tuned_file(study.data), f"{study.path}: tuned", folder=False)
    if read_tuned(study.data).get("tune", _section(study)) != _section(study):
        raise ConfigError(f"{file} was written for another `tune`, and may be another study's: "
                          "remove it, or give `tuned` another name.")  # fmt: skip
    rows = study.data["tune"]["rows"]
    used = {row.get("teacher") for row in rows.values()}
    teachers = study.only(name for name in study.rows if name in used)
    if teachers.rows and (failed := run_study(teachers, jobs, executor)):
        return failed
    chosen: Dict[str, Dict[str, Any]] = {}
    for name, row in rows.items():
        before = chosen[row["tuned"]]["options"] if "tuned" in row else []
        tries = _tries(study, name, before)
        failed = run_study(tries, jobs, executor)
        if len(failed) == len(tries.runs):
            return failed
        print("\n".join(f"Tried and failed: {line}" for line in failed), end="\n" * bool(failed))
        chosen[name] = _best(tries, row["try"], before)
        if chosen[name]["tried"][chosen[name]["best"] - 1][study.metric] is None:
            return [f"{plain(name)}: no try has a {study.metric}"]
    write_yaml(tuned_file(study.data), {"tune": _section(study), "rows": chosen})
    return []


def check_images(study: Study) -> None:
    """What is tuned on must not be what a row is trained or tested on.

    Raises:
        ConfigError: it is; names are compared, not images.
    """
    test = study.data["tune"]["test"]
    for row, words in study.trained.items():
        datasets = config_of(words, distils=False).DATASETS
        if test in {*datasets.TRAIN, *datasets.UNLABELLED, *datasets.TEST}:
            raise ConfigError(
                f"{study.path}: tune: test: row {row!r} is trained or tested on {test!r}: tune on "
                "other images."
            )


def _section(study: Study) -> Dict[str, Any]:
    return {"metric": study.metric, "seed": 0, **study.data["tune"]}


def _tries(study: Study, name: str, before: List[Any]) -> Study:
    """A study whose rows are the tries of one row, behind options that were chosen before."""
    tune = _section(study)
    row = tune["rows"][name]
    fixed = ["SOLVER.MAX_ITER", tune["steps"], "DATASETS.TEST", str((tune["test"],))]
    kept = {**row, "teacher": teacher_of(study.data, row), "tuned": ""}
    rows = {
        f"tune/{name}/{number}": {
            **kept, "options": [*row.get("options", []), *before, *pairs, *fixed]
        }
        for number, pairs in enumerate(row["try"], 1)
    }  # fmt: skip
    data = {**study.data, "rows": rows, "seeds": [tune["seed"]]}
    return build_study(study.path, data, study.text)


def _best(tries: Study, options: List[List[Any]], before: List[Any]) -> Dict[str, Any]:
    """The options of the best try with those before them, and every try with its result."""
    results = [read_result(run) for run in tries.runs]
    values = [
        value_of(run, found, tries.metric) if found else math.nan
        for run, found in zip(tries.runs, results, strict=True)
    ]
    known = [value if math.isfinite(value) else None for value in values]
    tried = [
        {"options": pairs, tries.metric: value, "seconds": (found or {}).get("seconds")}
        for pairs, value, found in zip(options, known, results, strict=True)
    ]
    ranked = [-math.inf if value is None else value for value in known]
    best = ranked.index(max(ranked))
    return {"options": [*before, *options[best]], "best": best + 1, "tried": tried}
