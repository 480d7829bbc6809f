"""The average of the weights is the result of a run, and a run with one goes on exactly."""

import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from torch.testing import assert_close

from d2kd import DistillationTrainer
from d2kd.checkpoint import StrictCheckpointer
from d2kd.data import register_custom_datasets
from d2kd.engine.hooks import WeightAverage
from tests.engine.hooks.test_exact_resume import ITERATIONS, Interruption, config, result, train

DISTILLED = "RetinaNet, PKD and BCKD"
NO_TEST = {"TEST__EVAL_PERIOD": 0, "SOLVER__BEST_METRIC": ""}


def averaged(folder, squares, out, **keys):
    keys = {"TEST__EVAL_PERIOD": 4, "SOLVER__BEST_METRIC": "bbox/AP", "SOLVER__EMA__DECAY": 0.5,
            **keys}  # fmt: skip
    cfg = config(DISTILLED, folder, squares, out, **keys)
    cfg.MODEL.RETINANET.NORM = "BN"  # whose statistics are averaged too
    return cfg


def saved(folder, name="model_final"):
    return torch.load(folder / f"{name}.pth", weights_only=True)


def state(folder, name="model_final"):
    return saved(folder, name)["trainer"]["hooks"]["WeightAverage"]


class Weights(torch.nn.Module):
    """Two weights and a buffer that training sets by hand."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("batches", torch.tensor(0))

    def step(self, value):
        self.weight.data.fill_(value)
        self.mean.fill_(-value)
        self.batches += 1


def test_a_small_average_by_hand():
    """Steps 1, 2 and 3: the first is copied, then decays of 2/11 and 3/12."""
    weights = Weights()
    hook = WeightAverage(weights, 0.9)
    hook.trainer = SimpleNamespace(iter=0, max_iter=99, start_iter=0)
    hook.before_train()
    for value in (1.0, 2.0, 3.0):
        weights.step(value)
        hook.after_step()
    second = 2 / 11 * 1 + 9 / 11 * 2
    third = 3 / 12 * second + 9 / 12 * 3
    assert_close(hook.detector.weight.data, torch.full((2,), third))
    assert_close(hook.detector.mean, torch.full((1,), -third))
    assert weights.weight.tolist() == [3.0, 3.0]  # which are trained on


def test_the_decay_is_the_one_of_the_config_later_on():
    weights = Weights()
    hook = WeightAverage(weights, 0.5)
    hook.trainer = SimpleNamespace(iter=0, max_iter=99, start_iter=0)
    for value in (0.0,) * 20 + (1.0,):
        weights.step(value)
        hook.after_step()
    assert hook.detector.weight.tolist() == [0.5, 0.5]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, squares):
    folder = tmp_path_factory.mktemp("whole")
    train(averaged(folder, squares, "whole"))
    return folder / "whole"


def test_the_final_model_is_the_average_and_a_plain_student(whole, squares, tmp_path):
    periodic, final = saved(whole, "model_0000005"), saved(whole)
    assert state(whole, "model_0000005")["ended"] is False and state(whole)["ended"] is True
    assert set(final["model"]) == set(periodic["model"]) == set(state(whole)["weights"])
    trained = state(whole)["weights"]
    assert any((final["model"][k] != trained[k]).any() for k in trained)
    plain = config("RetinaNet", tmp_path, squares, "plain", MODEL__RETINANET__NORM="BN")
    StrictCheckpointer(build_model(plain), "").load(str(whole / "model_final.pth"), [])


def copied(run, folder, last):
    """A copy of a run that was killed before it wrote its final model."""
    shutil.copytree(run, folder / "out")
    (folder / "out" / "model_final.pth").unlink()
    (folder / "out" / "last_checkpoint").write_text(f"{last}.pth")


def test_training_is_the_one_without_an_average_which_can_begin_later(
    whole, squares, tmp_path, caplog
):
    train(averaged(tmp_path, squares, "without", SOLVER__EMA__DECAY=0.0, **NO_TEST))
    without = saved(tmp_path / "without")
    assert "WeightAverage" not in without["trainer"]["hooks"]
    assert_close(without["model"], state(whole)["weights"], rtol=0, atol=0)
    assert_close(without["distillation"], saved(whole)["distillation"], rtol=0, atol=0)
    copied(tmp_path / "without", tmp_path, "model_0000005")
    with caplog.at_level(logging.WARNING):
        train(averaged(tmp_path, squares, "out", **NO_TEST), resume=True)
    assert "the average begins at step 6" in caplog.text
    assert state(tmp_path / "out")["steps"] == ITERATIONS - 6


def test_what_is_evaluated_and_kept_as_the_best_is_the_average(squares, tmp_path):
    cfg = averaged(tmp_path, squares, "out", SOLVER__MAX_ITER=2, TEST__EVAL_PERIOD=1)
    register_custom_datasets(cfg)
    seen = []

    class Trainer(DistillationTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            seen.append({k: v.clone() for k, v in model.state_dict().items()})
            return {"bbox": {"AP": float(len(seen))}}

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert_close(saved(tmp_path / "out", "model_best")["model"], seen[-1], rtol=0, atol=0)
    assert_close(saved(tmp_path / "out")["model"], seen[-1], rtol=0, atol=0)


def test_interrupted_and_resumed(whole, squares, tmp_path):
    cfg = averaged(tmp_path, squares, "parts")
    for stop in (3, 7):
        with pytest.raises(Interruption):
            train(cfg, stop, resume=stop > 3)
    train(cfg, resume=True)
    for one, parts in zip(result(whole), result(tmp_path / "parts"), strict=True):
        assert_close(parts, one, rtol=0, atol=0, equal_nan=True)
    assert_close(state(tmp_path / "parts"), state(whole), rtol=0, atol=0)


def test_a_run_that_is_prolonged_goes_on_with_what_it_trained(whole, squares, tmp_path):
    for steps in (6, ITERATIONS):
        cfg = averaged(tmp_path, squares, "out", SOLVER__MAX_ITER=steps, **NO_TEST)
        train(cfg, resume=steps > 6)
    assert_close(saved(tmp_path / "out")["model"], saved(whole)["model"], rtol=0, atol=0)
    assert_close(state(tmp_path / "out"), state(whole), rtol=0, atol=0)


def test_a_kill_between_the_last_checkpoint_and_the_final_one(whole, squares, tmp_path):
    copied(whole, tmp_path, f"model_{ITERATIONS - 1:07d}")
    train(averaged(tmp_path, squares, "out"), resume=True)
    assert_close(saved(tmp_path / "out")["model"], saved(whole)["model"], rtol=0, atol=0)
    assert_close(state(tmp_path / "out"), state(whole), rtol=0, atol=0)
