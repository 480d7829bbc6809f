"""Running a study: one process per training, finished ones are never run again."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, Optional

from ..config.locate import moved_config
from ..cores import usable_cores
from ..engine.run_folder import holds_run
from ..file_io import write_atomically
from ..text import plain
from .commands import Run
from .plan import Study

_FIRST_VERSION = ["train_net.py", "--config-file"]  # how d2kd 0.1.0 began what is now `d2kd train`


def run_study(study: Study, jobs: int = 1, threads: int = 0) -> List[str]:
    """Run what is not finished yet.

    Args:
        study: what to run.
        jobs: trainings at the same time.
        threads: of each, whatever the environment says; 0: see `execute`.

    Returns:
        List[str]: one line for each run that failed.

    Raises:
        ValueError: a finished run was made with another command.
    """
    open_runs = [run for run in study.runs if read_result(run) is None]
    print(f"{len(study.runs) - len(open_runs)} of {len(study.runs)} runs are finished", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        errors = pool.map(lambda run: execute(run, study.metric, jobs, threads), open_runs)
    return [error for error in errors if error]


def execute(run: Run, metric: str, jobs: int = 1, threads: int = 0) -> Optional[str]:
    """Run one training in a process of its own and store its result.

    An interrupted run starts again from its last checkpoint. With several `jobs` at the same time
    it gets its part of the cores, unless OMP_NUM_THREADS is set.

    Returns:
        Optional[str]: what went wrong, None if nothing did.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    resume = ["--resume"] if holds_run(run.folder) else []
    part = {"OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))} if jobs > 1 else {}
    own = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    start, name = time.time(), f"{plain(run.row)}, seed {run.seed}"
    with open(run.folder / "console.txt", "a", encoding="utf-8") as console:
        command = [sys.executable, "-m", *run.command[:3], *resume, *run.command[3:]]
        code = subprocess.run(command, stdout=console, stderr=subprocess.STDOUT, check=False,
                              env={**part, **os.environ, **own})  # fmt: skip
    value = last_value(run.folder / "metrics.json", metric)
    if code.returncode or value is None:
        reason = f"exit code {code.returncode}" if code.returncode else f"no {metric} was logged"
        return f"{name}: {reason}, see {run.folder / 'console.txt'}"
    result = {"command": run.command, metric: value, "seconds": round(time.time() - start)}
    text = json.dumps(result, indent=1)
    write_atomically(run.folder / "result.json", lambda path: path.write_text(text))
    print(f"{name}: {metric} {value:.1f}, {result['seconds']} s", flush=True)
    return None


def read_result(run: Run) -> Optional[dict]:
    """The stored result of a run, None if it is not finished.

    Raises:
        ValueError: it was made with another command.
    """
    path = run.folder / "result.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    if result["command"][:2] == _FIRST_VERSION:
        result["command"][:2] = run.command[:2]
        result["command"] = [moved_config(word) for word in result["command"]]
    if result["command"] != run.command:
        raise ValueError(
            f"{path} was made by another command: {' '.join(result['command'])}. Now it would be: "
            f"{' '.join(run.command)}. Remove the folder to run it again, or rename the row."
        )
    return result


def collect(study: Study) -> Dict[str, Dict[int, float]]:
    """The metric of every finished run: row -> seed -> value."""
    found = {}
    for row, runs in study.rows.items():
        results = {run.seed: read_result(run) for run in runs}
        found[row] = {seed: r[study.metric] for seed, r in results.items() if r is not None}
    return found


def collect_more(study: Study) -> Dict[str, Dict[str, Dict[int, float]]]:
    """The further metrics of every finished run that has them: metric -> row -> seed -> value."""
    found: Dict[str, Dict[str, Dict[int, float]]] = {}
    for metric in study.more_metrics:
        found[metric] = {row: {} for row in study.rows}
        for run in study.runs:
            value = last_value(run.folder / "metrics.json", metric)
            if value is not None and read_result(run) is not None:
                found[metric][run.row][run.seed] = value
    return found


def last_value(path: Path, metric: str) -> Optional[float]:
    """The last value of a metric in Detectron2's metrics.json, None if it is not there."""
    if not path.is_file():
        return None
    lines = (json.loads(line) for line in path.read_text().splitlines() if f'"{metric}"' in line)
    return next(reversed([line[metric] for line in lines]), None)
