"""DISTILL.TEACHER.PRECISION auto: what is tried, what is settled, what a resumed run keeps."""

import json

import pytest
import torch
from torch.testing import assert_close

from d2kd.engine.hooks import teacher_trial
from d2kd.teachers.ahead import AheadTeacher
from d2kd.teachers.ahead_runner import ProcessRunner
from d2kd.teachers.precision import Trial, try_precision
from d2kd.testing import make_batch
from tests.engine.hooks.test_exact_resume import Interruption, config, result, train
from tests.helpers import pair

CASE = "RetinaNet, PKD and BCKD"
NEED = frozenset({"features", "logits", "deltas"})


@pytest.mark.parametrize(("distance", "ratio", "precision"), [
    (0.01, 0.5, "bf16"), (0.06, 0.5, "fp32"), (0.01, 1.1, "fp32"), (float("nan"), 0.5, "fp32"),
])  # fmt: skip
def test_what_counts(distance, ratio, precision):
    assert Trial(distance, ratio).precision == precision


def undecided(model):
    teacher = model.teachers[0]
    teacher.undecided = True
    return teacher


def test_a_trial_measures_rounding_and_leaves_the_teacher_as_it_was():
    _, model = pair("GFL", ("PKD", "LD"))
    teacher, batch = undecided(model), make_batch()
    before = teacher(batch, 32, "BGR", NEED)
    trial = try_precision(teacher, batch, 32, "BGR", NEED)
    assert 1e-4 < trial.distance < 0.05 and trial.ratio > 0
    after = teacher(batch, 32, "BGR", NEED)
    assert_close(after.features, before.features, rtol=0, atol=0)
    teacher.settle("bf16")
    half = teacher(batch, 32, "BGR", NEED)
    found = max(
        float((half.features[s].float() - x).norm() / x.norm()) for s, x in before.features.items()
    )
    assert 0 < found <= trial.distance
    assert not teacher.undecided and teacher.precision == "bf16"


def test_what_cannot_be_compared_stays_in_fp32():
    """A map with a NaN, wherever it is, and a teacher of which boxes alone are read."""
    _, model = pair("GFL", ("PKD",))
    teacher = undecided(model)
    assert try_precision(teacher, make_batch(), 32, "BGR", frozenset({"sets"})).precision == "fp32"
    last = list(teacher.detector.backbone.downs)[-1]
    torch.nn.init.constant_(last.bias, float("nan"))
    trial = try_precision(teacher, make_batch(), 32, "BGR", NEED)
    assert trial.distance == float("inf") and trial.precision == "fp32"


def test_what_runs_ahead_computes_as_settled():
    _, model = pair("GFL", ("PKD",))
    teacher = undecided(model)
    ahead = AheadTeacher(teacher, ProcessRunner(teacher, torch.device("cpu")))
    ahead.settle("bf16")
    batch = make_batch()
    batch[0]["batch number"] = 1
    ahead.look_ahead(batch, 32, "BGR", NEED)
    found = ahead(batch, 32, "BGR", NEED)
    here = teacher(batch, 32, "BGR", NEED)
    ahead.close()
    assert {x.dtype for x in found.features.values()} == {torch.bfloat16}
    assert_close(found.features, here.features, rtol=0, atol=0)


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_a_run_records_and_keeps_what_was_settled(tmp_path, squares, monkeypatch, chosen):
    """The trial alone is set: which one is faster depends on the machine."""
    ratio = {"bf16": 0.5, "fp32": 2.0}
    keys = {"DISTILL__TEACHER__PRECISION": "auto", "DISTILL__TEACHER__AHEAD": 1}
    monkeypatch.setattr(teacher_trial, "try_precision", lambda *_: Trial(0.0, ratio[chosen]))
    train(config(CASE, tmp_path, squares, "whole", **keys))
    assert json.loads((tmp_path / "whole/run.json").read_text())["teacher_precision"] == [chosen]
    cfg = config(CASE, tmp_path, squares, "parts", **keys)
    with pytest.raises(Interruption):
        train(cfg, 5)
    other = {"bf16": 2.0, "fp32": 0.5}
    monkeypatch.setattr(teacher_trial, "try_precision", lambda *_: Trial(0.0, other[chosen]))
    train(cfg, resume=True)
    for a, b in zip(*(result(tmp_path / x) for x in ("whole", "parts")), strict=True):
        assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    train(config(CASE, tmp_path, squares, "named", DISTILL__TEACHER__PRECISION="fp32"))
    same = torch.equal(*(next(iter(result(tmp_path / x)[1].values())) for x in ("whole", "named")))
    assert same == (chosen == "fp32")


def test_a_cache_knows_what_was_settled(tmp_path, squares, monkeypatch):
    """Outputs of one precision are not those of another."""
    hits = []
    for ratio in (0.5, 2.0, 2.0):
        monkeypatch.setattr(teacher_trial, "try_precision", lambda *_, x=ratio: Trial(0.0, x))
        keys = {"DISTILL__TEACHER__PRECISION": "auto", "SOLVER__MAX_ITER": 2}
        cfg = config(CASE, tmp_path, squares, f"out{len(hits)}", **keys)
        cfg.DISTILL.TEACHER.CACHE_DIR = str(tmp_path / "cache")
        train(cfg)
        hits.append(result(tmp_path / f"out{len(hits)}")[3]["teacher_cache/hits"])
    assert hits == [0, 0, 1]
