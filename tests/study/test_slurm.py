"""Jobs of Slurm, by a stand-in for it: what is queued is not submitted again."""

from pathlib import Path

import pytest

from d2kd.engine import jobs
from d2kd.engine.jobs import Executor
from d2kd.file_io import write_yaml
from d2kd.study import equal_time, load_study
from d2kd.study.found import read_paces
from tests.helpers import write_config
from tests.study.jobs import write_study
from tests.study.test_executors import work

pytest.importorskip("submitit")

SQUEUE = """echo "$@" >> asked
[ $(wc -l < asked) -lt 3 ] && echo PENDING && exit 0
ls submitted.* > before 2> /dev/null
echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1"""


def test_a_job_that_slurm_has_is_not_submitted_again(tmp_path, warm_python, slurm, monkeypatch):
    """A scheduler that was killed has left its number."""
    monkeypatch.chdir(tmp_path)
    Path("squeue").write_text(f"#!/bin/sh\n{SQUEUE}\n")
    Path("squeue").chmod(0o755)
    Path(".job").write_text("4711")
    executor = Executor("slurm", tmp_path / "submitit")
    executor._executor._executor.python = warm_python
    ended = executor.run([(work, (tmp_path, 0))], 1, notes=[tmp_path / ".job"])
    assert ended[0].error == ""
    asked = Path("asked").read_text().splitlines()
    assert asked == ["--noheader --format=%T --jobs 4711"] * 3
    assert Path("before").read_text() == "" and list(tmp_path.glob("submitted.*"))
    assert Path(".job").read_text() not in ("", "4711")
    Path(".job").write_text("1; rm -r x")
    assert not jobs.is_queued(tmp_path / ".job") and len(asked) == 3


def test_a_job_of_slurm(tmp_path, warm_python, slurm):
    executor = Executor("slurm", tmp_path / "submitit", {"partition": "gpu", "time": "600"})
    executor._executor._executor.python = warm_python
    ended = executor.run([(work, (tmp_path, 0)), (work, (tmp_path, 0, True))], 2)
    assert ended[0].error == "" and ended[0].value[1] == 0
    assert ended[1] == (None, "ValueError: it cannot work")
    text = next(tmp_path.glob("submitted.*")).read_text()
    assert "#SBATCH --partition=gpu" in text and "#SBATCH --time=600" in text


TIMED = """echo >> asked
[ $(wc -l < asked) -lt 3 ] && echo PENDING && exit 0
[ -e timed.yaml ] && mv timed.yaml out/pace.yaml
echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1"""


def pace_of(study, file):
    commands = [list(study.trained[x]) for x in ("plain", "KD")]
    row = {"time_of": "KD", "ratio": 2.0, "seconds": 0.5, "turns": 1, "steps": 1, "threads": 1,
           "commands": commands, "device": "cpu"}  # fmt: skip
    write_yaml(Path(file), {"plain": row})


def measure(study, *_):
    """In place of the timing, in a job."""
    pace_of(study, study.output / "pace.yaml")


def test_a_timing_that_slurm_has_is_not_submitted_again(
    tmp_path, squares, warm_python, slurm, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    row = {"config": str(write_config(tmp_path / "c", squares, SOLVER__MAX_ITER=8))}
    write_study(tmp_path, squares, rows={"KD": row, "plain": {**row, "time_of": "KD"}})
    study = load_study("study.yaml")
    Path("squeue").write_text(f"#!/bin/sh\n{TIMED}\n")
    Path("out").mkdir()
    note = Path("out/.plain.job")
    note.write_text("4711")
    pace_of(study, "timed.yaml")
    executor = Executor("slurm", tmp_path / "submitit")
    executor._executor._executor.python = warm_python
    assert equal_time.measure_paces(study, 2, executor) == []
    assert not list(tmp_path.glob("submitted.*"))
    assert read_paces(study.data)["plain"]["steps"] == 16
    Path("out/pace.yaml").unlink()
    monkeypatch.setattr(equal_time, "_measure", measure)
    assert equal_time.measure_paces(study, 2, executor) == []
    (job,) = tmp_path.glob("submitted.*")
    assert note.read_text() == job.suffix[1:]
