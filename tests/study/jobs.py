"""A small study of real trainings, and schedulers of it in processes of their own."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import torch
import yaml

from d2kd.engine.jobs import Executor
from d2kd.study import collect, load_study, run_study, write_report
from tests.engine.hooks.test_exact_resume import UNTIMED
from tests.helpers import write_config
from tests.ranks import CLEAN
from tests.warm import NAME

METRIC = "total_loss"


def write_study(folder, squares, **changes):
    """Two rows and two seeds; a run takes seconds."""
    config = write_config(folder / "c", squares, SOLVER__MAX_ITER=8, SOLVER__CHECKPOINT_PERIOD=2)
    Path(folder, "mine.py").write_text("import d2kd.testing\n")
    row = {"config": str(config)}
    data = {"title": "Toy", "output": "out", "seeds": [1, 2], "metric": METRIC,
            "imports": ["mine.py"], "options": ["DATASETS.TEST", "()"],
            "rows": {"plain": row, "fast": {**row, "options": ["SOLVER.BASE_LR", 0.03]}},
            **changes}  # fmt: skip
    Path(folder, "study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))


def results(folder):
    """What a study gives, without times: per run its result, weights and rows."""
    found = {}
    for path in sorted(Path(folder, "out").glob("*/seed_*/result.json")):
        run, result = path.parent, json.loads(path.read_text())
        rows = [json.loads(x) for x in (run / "metrics.json").read_text().splitlines()]
        kept = [{k: x for k, x in row.items() if k not in UNTIMED} for row in rows]
        state = torch.load(run / "model_final.pth")["model"]
        name = f"{run.parent.name}/{run.name}"
        found[name] = (
            result["command"],
            result[METRIC],
            kept,
            {k: x.tolist() for k, x in state.items()},
        )
    return found


def quick_executor(folder, python):
    """One of this machine whose jobs, and what they start, wait for no imports."""
    os.environ[NAME] = python
    return quick(python, "local", folder)


def quick(python, *args):
    """An executor whose jobs wait for no imports, and which waits for no results of killed ones."""
    executor = Executor(*args)
    inner = executor._executor._executor
    inner.python = python
    inner.job_class._results_timeout_s = 0.5  # it is for network file systems
    return executor


def _schedule(folder, executor, python):
    os.setsid()
    os.chdir(folder)
    with open("scheduler.txt", "a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        study = load_study("study.yaml")
        if not executor:
            sys.executable = python
        where = quick_executor(study.output / "submitit", python) if executor else None
        failed = run_study(study, 2, where)
        write_report(study, collect(study))
        print(*failed, sep="\n")
    os._exit(1 if failed else 0)


def schedule(folder, python, executor=True):
    """Start `d2kd study` with two jobs at the same time."""
    process = CLEAN.Process(target=_schedule, args=(folder, executor, python))
    process.start()
    return process


def processes(*words):
    """Ids of the processes whose command line holds all words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(word in text for word in words):
                found.append(int(path.parent.name))
    return found


def wait_for(holds, seconds=60):
    """Until it holds; whether it does."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()
