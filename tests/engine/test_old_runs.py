"""Run folders and checkpoints that d2kd 0.1.0 wrote are read, resumed and evaluated."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.conftest import ROOT
from tests.helpers import d2kd

OLD = ROOT / "tests" / "engine" / "old_runs"


@pytest.fixture
def folder(tmp_path, squares, monkeypatch):
    """Both runs and their data, as they stood to each other, in the working directory."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    shutil.copytree(squares, tmp_path / "squares")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(path):
    return torch.load(path, weights_only=True)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_a_run_that_was_stopped_goes_on_as_it_would_have(folder):
    """Weights are compared closely, not bit by bit, since other CPUs round differently."""
    run = folder / "distilled"
    (run / "last_checkpoint").write_text("model_0000059.pth")
    whole, before = saved(run / "model_final.pth"), metrics(run)
    (run / "model_final.pth").unlink()
    (run / "metrics.json").unlink()
    done = d2kd("train", "distilled", "--resume")
    assert done.exit_code == 0, done.output
    resumed = saved(run / "model_final.pth")
    assert set(resumed) == set(whole) and resumed["iteration"] == whole["iteration"] == 119
    assert set(resumed["trainer"]["hooks"]) == set(whole["trainer"]["hooks"])
    assert_close(resumed["model"], whole["model"], rtol=1e-2, atol=1e-3)
    assert_close(resumed["distillation"], whole["distillation"], rtol=1e-2, atol=1e-3)
    after = {x["iteration"]: x["total_loss"] for x in metrics(run) if "total_loss" in x}
    expected = {x["iteration"]: x["total_loss"] for x in before if "total_loss" in x}
    assert {79, 99, 119} <= set(after)  # short runs have more rows than they had
    assert_close(
        {i: after[i] for i in (79, 99, 119)},
        {i: expected[i] for i in (79, 99, 119)},
        rtol=1e-2,
        atol=0,
    )
    log = (run / "log.txt").read_text()
    assert "Starting training from iteration 60" in log and "Cannot find the hook" not in log


@pytest.mark.parametrize("name", ["teacher", "distilled"])
def test_a_finished_run_is_evaluated_to_what_it_said(folder, name):
    done = d2kd("eval", name)
    assert done.exit_code == 0, done.output
    old = json.loads((folder / name / "results.json").read_text())["results"]["bbox"]
    new = json.loads((folder / name / "eval" / "results.json").read_text())["results"]["bbox"]
    assert set(new) == set(old)
    assert new["AP"] == pytest.approx(old["AP"], abs=0.5)


def test_a_finished_run_is_a_teacher_and_stands_in_a_report(folder):
    done = d2kd("train", "distilled", "--output", "again", "SOLVER.MAX_ITER", 2)
    assert done.exit_code == 0, done.output
    weights = json.loads(Path("again", "run.json").read_text())["weights"]
    before = json.loads(Path("distilled", "run.json").read_text())["weights"]
    assert weights == before and set(before) == {"teacher/model_final.pth"}
    assert d2kd("report", "distilled", "teacher", "--images", 1).exit_code == 0
    assert "25.9" in Path("report.html").read_text()  # the AP50 of results.json


def test_the_keys_of_an_old_config_have_the_values_they_had(folder):
    done = d2kd("config", "distilled")
    assert done.exit_code == 0
    text = Path("distilled", "config.yaml").read_text()
    missing = [line for line in text.splitlines() if line not in done.stdout.splitlines()]
    assert missing == []
