"""Whole trainings in float16 with Detectron2's own step of mixed precision, on the CPU.

That step asks for CUDA by name. Here it is given the CPU's autocast and scaler instead; all else is
as on a GPU.
"""

import json
import math
import types
from functools import partial

import pytest
import torch
from detectron2.engine import train_loop
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from d2kd import DistillationTrainer
from d2kd.data import register_custom_datasets
from d2kd.engine.capsule import read_capsule
from d2kd.engine.hooks import gradient_guard
from d2kd.engine.steps import MixedStep
from d2kd.inspection.checkup import trainer_for_trial
from d2kd.inspection.trial_step import measure_step
from tests.engine.hooks.test_exact_resume import Interruption, config, result, train
from tests.helpers import d2kd

KEYS = {
    "SOLVER__AMP__ENABLED": True, "SOLVER__EMA__DECAY": 0.5, "SOLVER__OPTIMIZER": "AdamW",
    "SOLVER__BASE_LR": 1e-4, "SOLVER__CLIP_GRADIENTS__ENABLED": True,
    "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full_model", "DISTILL__GRADIENT_PERIOD": 3,
}  # fmt: skip
SCALER = {"init_scale": 2.0**15, "growth_interval": 1}  # overflows at first, and again


class Torch(types.SimpleNamespace):
    """PyTorch, which says that there is CUDA."""

    cuda = types.SimpleNamespace(is_available=lambda: True)

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def half(monkeypatch):
    monkeypatch.setattr(train_loop, "torch", Torch())
    monkeypatch.setattr("torch.cuda.amp.autocast", partial(torch.autocast, "cpu"))
    scaler = partial(torch.amp.GradScaler, "cpu", **SCALER)
    monkeypatch.setattr("torch.cuda.amp.GradScaler", scaler)
    monkeypatch.setattr("d2kd.engine.trainer.step_class", lambda cfg: MixedStep)


def steps(cfg):
    """Whether each step changed a weight; the scale before each; the trainer."""
    torch.manual_seed(1)
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    step, changed, scales = trainer.run_step, [], []

    def run_step():
        before = [x.detach().clone() for x in trainer.model.parameters()]
        scales.append(trainer._trainer.grad_scaler.get_scale())
        step()
        pairs = zip(before, trainer.model.parameters(), strict=True)
        changed.append(any(not torch.equal(a, b) for a, b in pairs))

    trainer.run_step = run_step
    trainer.train()
    return changed, scales, trainer


@pytest.mark.parametrize("case", ["RetinaNet, PKD and BCKD", "GFL, LD and StructuredKD"])
def test_overflows_are_skipped_and_counted_once(tmp_path, squares, half, case):
    changed, scales, trainer = steps(config(case, tmp_path, squares, "out", **KEYS))
    scales.append(trainer._trainer.grad_scaler.get_scale())
    halved = [b < a for a, b in zip(scales, scales[1:], strict=False)]
    assert halved == [not x for x in changed]
    assert 1 < sum(changed) < len(changed) - 1
    rows = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert json.loads(rows[7])["skipped_steps"] == len(changed) - sum(changed)
    states = trainer.optimizer.state.values()
    assert {int(x["step"]) for x in states} == {sum(changed)}


def test_the_steps_of_check(tmp_path, squares, half):
    cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, "out", **KEYS)
    register_custom_datasets(cfg)
    with trainer_for_trial(cfg) as (trainer, _):
        kinds, scaler = set(), trainer._trainer.grad_scaler
        trainer.distiller.probes["types"] = lambda losses, student: kinds.update(
            x.dtype for x in student.features.values()
        )
        stream, scales = iter(trainer.data_loader), []
        with EventStorage(0):
            for _ in range(3):
                assert all(map(math.isfinite, measure_step(trainer, stream).losses.values()))
                scales.append(scaler.get_scale())
        assert kinds == {torch.float16} and len(set(scales)) > 1


def test_resumed_with_the_same_bits(tmp_path, squares, half):
    """Among steps that overflow, and with the scale that the last one left."""
    case = "RetinaNet, PKD and BCKD"
    train(config(case, tmp_path, squares, "whole", **KEYS))
    cfg = config(case, tmp_path, squares, "parts", **KEYS)
    for stop in (3, 7):
        with pytest.raises(Interruption):
            train(cfg, stop, resume=stop > 3)
    train(cfg, resume=True)
    whole, parts = (result(tmp_path / name) for name in ("whole", "parts"))
    assert whole[3]["skipped_steps"] > 1
    for a, b in zip(whole, parts, strict=True):
        assert_close(b, a, rtol=0, atol=0, equal_nan=True)


def test_an_overflow_is_repeated_and_named(tmp_path, squares, half, monkeypatch):
    """With the scale that the step began with: the scaler has lowered it before the run ends."""
    huge = partial(torch.amp.GradScaler, "cpu", init_scale=2.0**30)
    monkeypatch.setattr("torch.cuda.amp.GradScaler", huge)
    monkeypatch.setattr(gradient_guard, "_MAX_SKIPPED", 1)
    monkeypatch.setattr("d2kd.inspection.replay.repeat.step_class", lambda cfg: MixedStep)
    cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, "out", **KEYS)
    with pytest.raises(FloatingPointError, match="in a row"):
        train(cfg)
    folder = next((tmp_path / "out" / "replay").iterdir())
    number = int(folder.name)
    assert read_capsule(folder).record["scaler"]["scale"] == 2.0 ** (30 - number)
    said = d2kd("replay", folder).output
    assert "The step fails here as it did, bit by bit." in said, said
    assert "Gradients of losses: the first that is not finite is" in said, said
    assert f"the gradients below are times its scale, {2.0 ** (30 - number):g}" in said
    assert "Backward: the first module that is not finite" in said or "where it reaches" in said
