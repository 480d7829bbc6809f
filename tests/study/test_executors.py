"""Studies as jobs of submitit give what they give without, and nothing starts twice."""

import errno
import os
import signal
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from d2kd.engine.jobs import Executor
from d2kd.errors import ConfigError
from d2kd.file_io import holder_of, locked
from d2kd.study import load_study, run_study
from d2kd.study.trainings import execute
from tests.helpers import d2kd
from tests.study.jobs import processes, quick_executor, results, schedule, wait_for, write_study
from tests.warm import NAME

pytest.importorskip("submitit")


@pytest.fixture
def executor(tmp_path, warm_python, monkeypatch):
    monkeypatch.setenv(NAME, warm_python)  # and taken back at the end
    monkeypatch.chdir(tmp_path)
    return quick_executor(tmp_path / "submitit", warm_python)


def work(folder, seconds, fails=False):
    """Note when it ran; its process can be killed by name."""
    with open(folder / "log.txt", "a", buffering=1) as file:
        file.write(f"+{os.getpid()}\n")
        time.sleep(seconds)
        file.write("-\n")
    if fails:
        raise ValueError("it cannot work")
    return os.environ.get("CUDA_VISIBLE_DEVICES"), seconds


def test_no_more_jobs_than_the_limit(tmp_path, executor, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    ended = executor.run([(work, (tmp_path, 0.5))] * 4, 2)
    assert [x.value for x in ended] == [("5", 0.5)] * 4
    running = most = 0
    for line in (tmp_path / "log.txt").read_text().splitlines():
        running += 1 if line[0] == "+" else -1
        most = max(most, running)
    assert most == 2 and running == 0


def test_what_fails_or_is_killed_is_said(tmp_path, executor):
    (failed,) = executor.run([(work, (tmp_path, 0, True))], 1)
    assert failed == (None, "ValueError: it cannot work")
    (killed,) = executor.run([(os._exit, (3,))], 1)
    assert killed.value is None and killed.error.startswith("it was stopped, what it said is in /")


def test_who_is_busy_is_waited_for(tmp_path, executor):
    begun, asked = time.monotonic(), []

    def busy(index):
        asked.append(index)
        return index == 0 and time.monotonic() < begun + 1.5

    ended = executor.run([(work, (tmp_path, 0))] * 2, 1, busy)
    assert [x.error for x in ended] == ["", ""] and asked.count(0) > 3 and asked[-1] == 1
    assert time.monotonic() > begun + 1.5


def test_a_study_gives_the_same_bits(tmp_path, squares, executor, warm_python, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write_study(tmp_path / name, squares, seeds=[1])
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "executable", warm_python)
    assert run_study(load_study("study.yaml"), 2) == []
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setenv(NAME, warm_python)
    study = load_study("study.yaml")
    assert run_study(study, 2, executor) == []
    here, there = results(tmp_path / "here"), results(tmp_path / "there")
    assert set(there) == {"plain/seed_1", "fast/seed_1"}
    for name, (_, *found) in there.items():
        assert found == list(here[name][1:])
    consoles = [run.folder / "console.txt" for run in study.runs]
    before = [x.read_text() for x in consoles]
    assert "iter: 7" in before[0] or "Starting training" in before[0]
    assert run_study(study, 2, executor) == [] and [x.read_text() for x in consoles] == before


def test_a_failed_run_is_reported_with_its_console(tmp_path, squares, executor):
    write_study(
        tmp_path, squares, seeds=[1], options=["DATASETS.TEST", "()", "SOLVER.STEPS", "(9, 1)"]
    )
    failed = run_study(load_study("study.yaml"), 2, executor)
    assert [x.split(",")[0] for x in failed] == ["plain", "fast"]
    assert "exit code 1, see out/plain/seed_1/console.txt" in failed[0]
    assert "SOLVER.STEPS" in Path("out/plain/seed_1/console.txt").read_text()


def test_two_trainings_do_not_share_a_folder(tmp_path, squares):
    write_study(tmp_path, squares)
    config, mine = tmp_path / "c" / "plain.yaml", tmp_path / "mine.py"
    with locked(tmp_path / "out" / ".lock"):
        done = d2kd("train", config, "--import", mine, "--output", tmp_path / "out")
    assert (
        done.exit_code == 1 and f"{tmp_path}/out is in use by process {os.getpid()}" in done.output
    )
    assert [x.name for x in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_study_waits_for_a_training_of_others(tmp_path, squares, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, squares, seeds=[1])
    study = load_study("study.yaml")
    run = study.runs[0]
    waited = []

    def end(command, **options):
        waited.append(holder_of(run.folder / ".lock"))
        return types.SimpleNamespace(returncode=3)

    monkeypatch.setattr("d2kd.study.trainings.subprocess.run", end)
    with locked(run.folder / ".lock"):
        ended = ThreadPoolExecutor(1).submit(execute, run, study.metric)
        time.sleep(0.5)
        assert not waited and not ended.done()
    assert f"plain, seed 1: waits for process {os.getpid()} on " in capsys.readouterr().out
    assert "exit code 3" in ended.result(10).error and waited == [""]


def test_a_scheduler_that_is_killed_loses_nothing(tmp_path, squares, warm_python):
    """Its jobs go on, and the next one waits for them rather than starting them again."""
    options = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", 150]
    write_study(tmp_path, squares, seeds=[1], options=options)
    first = schedule(tmp_path, warm_python)
    run = tmp_path / "out" / "plain" / "seed_1"
    assert wait_for(lambda: (run / "last_checkpoint").exists() or not first.is_alive())
    os.kill(first.pid, signal.SIGKILL)
    second = schedule(tmp_path, warm_python)
    second.join(120)
    said = (tmp_path / "scheduler.txt").read_text()
    assert second.exitcode == 0, said
    assert len(results(tmp_path)) == 2
    assert (run / "console.txt").read_text().count("Starting training from iteration") == 1
    assert "plain, seed 1: total_loss" in said and not processes(str(tmp_path), "submitit")


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(ConfigError, match=f"file system of {tmp_path} has no locks.*leave --exec"):
        Executor("local", tmp_path)


def test_files_of_submitit_are_the_user_s_own(tmp_path):
    """Whoever can write its pickles has what they say executed."""
    Executor("local", tmp_path / "x")
    assert [x.stat().st_mode & 0o777 for x in (tmp_path / "x").iterdir()] == [0o700]


def test_options_are_checked(tmp_path, squares, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, squares)
    words = "study", "study.yaml", "--import", "mine.py"
    for given in (("--slurm", "a=b"), ("--executor", "slurm", "--slurm", "a")):
        assert "--slurm takes KEY=VALUE" in d2kd(*words, *given).output
    assert "--executor slurm: " in d2kd(*words, "--executor", "slurm").output
    with pytest.raises(ConfigError, match="slurm_nonsense"):
        Executor("local", tmp_path / "x", {"nonsense": "1"})
