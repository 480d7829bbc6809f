"""Kills of a study's scheduler, jobs and trainings lose no finished run, and start none twice."""

import os
import random
import signal

import pytest

from tests.faults.conftest import FULL
from tests.study.jobs import processes, results, schedule, wait_for, write_study

pytest.importorskip("submitit")

TARGETS = {"scheduler": None, "controller": "submitit.local._local", "job": "submitit.core._submit",
           "training": " -m d2kd train"}  # fmt: skip
KILLS = [("job", 0)]
if FULL:
    KILLS = [(target, seed) for seed in range(3) for target in TARGETS][:10]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, squares, warm_python):
    """What the study gives without executor and kills."""
    folder = tmp_path_factory.mktemp("whole")
    write_study(folder, squares)
    process = schedule(folder, warm_python, executor=False)
    process.join()
    assert process.exitcode == 0, (folder / "scheduler.txt").read_text()
    return results(folder)


def kill(target, scheduler, folder, rng):
    """Of several processes of a kind one, at a moment that is drawn; all of a kind end at last."""
    words = str(folder), TARGETS[target]
    found = []

    def seen():
        found[:] = [scheduler.pid] if target == "scheduler" else processes(*words)
        return (found and rng.random() < 0.03) or not scheduler.is_alive()

    wait_for(seen, 120)
    if scheduler.is_alive():
        os.kill(rng.choice(sorted(found)), signal.SIGKILL)
    if target != "scheduler":
        scheduler.join(120)


@pytest.mark.parametrize(("target", "seed"), KILLS)
def test_a_kill(tmp_path, squares, warm_python, whole, target, seed):
    rng = random.Random(f"{target} {seed}")
    write_study(tmp_path, squares)
    kill(target, schedule(tmp_path, warm_python), tmp_path, rng)
    done = {x: x.stat().st_mtime_ns for x in (tmp_path / "out").glob("*/*/result.json")}
    for _ in range(1 if target == "scheduler" else 3):
        again = schedule(tmp_path, warm_python)
        again.join(240)
        if again.exitcode == 0:
            break
    said = (tmp_path / "scheduler.txt").read_text()
    assert again.exitcode == 0, said
    found = results(tmp_path)
    assert set(found) == set(whole)
    for name, (_, *values) in found.items():
        assert values == list(whole[name][1:]), name
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    consoles = [x.read_text() for x in (tmp_path / "out").glob("*/*/console.txt")]
    assert len(consoles) == 4 and not any("is in use by" in x for x in consoles)
    assert not processes(str(tmp_path), " -m d2kd train")
