"""Every command takes a run's best checkpoint, and --last the other."""

import json
from pathlib import Path

import pytest
import torch

from d2kd.checkpoint import run_checkpoint
from d2kd.errors import ConfigError
from tests.engine.test_old_runs import folder  # noqa: F401
from tests.helpers import d2kd

POINT = {"threshold": 0.125, "F1": 0.5, "precision": 0.75, "recall": 0.375}
RECORD = {"metric": "bbox/AP", "value": 12.345, "iteration": 59, "best_f1": POINT}


@pytest.fixture
def runs(folder):  # noqa: F811
    """Runs of 0.1.0, of which the teacher now has a best checkpoint; there is no last one here."""
    saved = torch.load("teacher/model_final.pth", weights_only=True)
    torch.save({"model": saved["model"]}, "teacher/model_best.pth")
    Path("teacher", "model_best.json").write_text(json.dumps(RECORD))
    return folder


def test_the_folder_of_a_run_is_its_best_checkpoint(runs):
    best = "teacher/model_best.pth, the run's best checkpoint (bbox/AP 12.35 at step 60)"
    assert run_checkpoint("teacher") == ("teacher/model_best.pth", best)
    last = "teacher/model_final.pth", "teacher/model_final.pth, the run's last checkpoint"
    assert run_checkpoint("teacher", last=True) == last
    assert run_checkpoint("distilled")[1].endswith("the run's last checkpoint")
    Path("teacher", "model_best.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"model_best.json is damaged: delete it"):
        run_checkpoint("teacher")
    Path("teacher", "model_best.json").unlink()
    assert run_checkpoint("teacher") == last


def test_eval_and_predict(runs):
    done = d2kd("predict", "teacher", "squares")
    assert "weights: teacher/model_best.pth, the run's best checkpoint" in done.output
    assert "score threshold 0.125: the best F1 (0.50) in validation" in done.output
    done = d2kd("predict", "teacher", "squares", "--last")
    assert "weights: teacher/model_final.pth, the run's last checkpoint" in done.output
    assert "score threshold 0.5: none is stored for teacher/model_final.pth" in done.output
    done = d2kd("eval", "teacher", "--last")
    assert done.exit_code == 0, done.output
    results = json.loads(Path("teacher/eval/results.json").read_text())
    assert list(results["run"]["weights"]) == ["teacher/model_final.pth"]
    chosen = results["results"]["best_f1"]
    assert set(chosen) == set(POINT) and 0 < chosen["F1"] < 1
    done = d2kd("predict", "teacher", "squares", "--last")
    assert f"score threshold {chosen['threshold']:g}: the best F1" in done.output
    done = d2kd("predict", "teacher", "squares", "--last", "--threshold", 0.9)
    assert "score threshold" not in done.output and done.exit_code == 0
    done = d2kd("eval", "teacher", "--weights", "x.pth", "--last")
    assert done.exit_code == 1 and "--weights x.pth and --last are two checkpoints" in done.output
    done = d2kd("eval", "teacher/config.yaml", "--last")
    assert "is no run's folder, so it has no checkpoint" in done.output


def test_report(runs):
    done = d2kd("report", "teacher", "distilled", "--images", 1)
    assert done.exit_code == 0, done.output
    said = "teacher/model_best.pth, the run's best checkpoint (bbox/AP 12.35 at step 60); score "
    assert said + "threshold 0.125: the best F1" in done.output
    assert "distilled/model_final.pth, the run's last checkpoint; score thr" in done.output
    assert "model_best.pth, the run" in Path("report.html").read_text()
    assert "model_best" not in d2kd("report", "teacher", "--images", 0, "--last").output


def weights_of(run):
    return list(json.loads(Path(run, "run.json").read_text())["weights"])


def test_a_teacher(runs):
    short = "SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()"
    done = d2kd("train", "distilled", "--output", "new", *short)
    assert weights_of("new") == ["teacher/model_best.pth"], done.output
    assert "best checkpoint (bbox/AP 12.35 at step 60)" in Path("new", "log.txt").read_text()
    done = d2kd(
        "train", "distilled", "--output", "on_last", "--teacher", "teacher", "--last", *short
    )
    assert weights_of("on_last") == ["teacher/model_final.pth"], done.output
    done = d2kd("train", "distilled", "--output", "none", "--last", *short)
    assert "--last: name a run with --teacher" in done.output and done.exit_code == 1


def test_a_run_that_began_with_the_last_checkpoint_goes_on_with_it(runs):
    done = d2kd("train", "distilled", "--resume", "SOLVER.MAX_ITER", 121)
    assert done.exit_code == 0, done.output
    assert "teacher/model_final.pth" in Path("distilled", "config.yaml").read_text()
    assert weights_of("distilled") == ["teacher/model_final.pth"]
