"""Evaluations as jobs of submitit give what they give without, and nothing is done twice."""

import os
from functools import partial
from pathlib import Path

import pytest

from d2kd.engine import jobs
from d2kd.robustness import collect, load_plan, run_plan
from tests.helpers import d2kd
from tests.ranks import CLEAN
from tests.robustness.test_robustness import setting, write_plan  # noqa: F401
from tests.study.jobs import quick, wait_for

pytest.importorskip("imagecorruptions", reason="needs imagecorruptions-imaug")
pytest.importorskip("submitit")
FOG = {"corruptions": {"names": "fog", "severities": [5]}}


def evaluated(plan):
    """Files of results, with their times."""
    return {x: x.stat().st_mtime_ns for model in plan.models
            for x in (plan.output / model).glob("*.json")}  # fmt: skip


@pytest.fixture
def command(setting, tmp_path, warm_python, monkeypatch):  # noqa: F811
    """`d2kd robustness` of a plan with an executor: its words, its plan."""
    monkeypatch.setattr(jobs, "Executor", partial(quick, warm_python))
    monkeypatch.chdir(tmp_path)
    Path("registers.py").write_text("import d2kd.testing")
    path = write_plan(setting, tmp_path / "out", ("a", "b"), **FOG)
    words = "robustness", path, "--import", "registers.py", "--jobs", "2", "--executor"
    return words, load_plan(path)


def test_the_same_results_and_lines(command, setting, tmp_path):  # noqa: F811
    words, plan = command
    done = d2kd(*words, "local")
    assert done.exit_code == 0, done.output
    here = load_plan(write_plan(setting, tmp_path / "here", ("a", "b"), **FOG))
    run_plan(here)
    assert collect(plan) == collect(here) and len(collect(plan)["b"]) == 2
    for name, cells in collect(here).items():
        for cell, found in cells.items():
            assert f"{name}, {cell}: AP {found['bbox']['AP']:.1f}, " in done.output
    assert "AP" in (tmp_path / "out" / "report.md").read_text()
    again = d2kd(*words, "local")
    assert "4 of 4 evaluations are finished" in again.output and ": AP " not in again.output


STOPS = """import os
import d2kd.testing
from d2kd.robustness import evaluations

def stop(*args, whole=evaluations._evaluate):
    whole(*args)
    os._exit(3)

if "SUBMITIT_EXECUTOR" in os.environ:
    evaluations._evaluate = stop
"""


def test_what_stopped_jobs_have_finished_stays(command):
    words, plan = command
    Path("registers.py").write_text(STOPS)
    done = d2kd(*words, "local")
    assert done.exit_code == 1 and "evaluations were stopped: it was stopped, what" in done.output
    kept = evaluated(plan)
    assert len(kept) == 2
    Path("registers.py").write_text("import d2kd.testing")
    assert d2kd(*words, "local").exit_code == 0
    found = evaluated(plan)
    assert len(found) == 4 and kept.items() <= found.items()


def _begin(python, words, folder, environment):
    os.environ.update(environment)
    os.chdir(folder)
    jobs.Executor = partial(quick, python)
    Path("said.txt").write_text(d2kd(*words, "slurm").output)


def test_a_job_that_slurm_has_is_not_submitted_again(command, tmp_path, warm_python, slurm):
    """The first command is killed while its jobs are queued."""
    words, plan = command
    Path("submitted-held").touch()
    first = CLEAN.Process(target=_begin, args=(warm_python, words, tmp_path, dict(os.environ)))
    first.start()
    notes = [plan.output / f".job-{i}" for i in range(2)]
    assert wait_for(lambda: all(x.is_file() for x in notes))
    first.kill()
    first.join()
    submitted = set(tmp_path.glob("submitted.*"))
    assert len(submitted) == 2 and not evaluated(plan)
    done = d2kd(*words, "slurm")
    assert done.exit_code == 0, done.output
    assert "waits for a job of Slurm" in done.output and "4 of 4 evaluations" in done.output
    assert set(tmp_path.glob("submitted.*")) == submitted and len(evaluated(plan)) == 4


def test_options_are_checked(command):
    words, _ = command
    for given in (("local", "--slurm", "a=b"), ("slurm", "--slurm", "a")):
        assert "--slurm takes KEY=VALUE" in d2kd(*words, *given).output
    assert "--executor slurm: " in d2kd(*words, "slurm").output
