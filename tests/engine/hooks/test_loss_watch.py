"""Whether distillation terms still move."""

import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from d2kd.checkpoint.weights_file import read_weights
from d2kd.engine.hooks.loss_watch import LossWatch

STEPS = 400


def trained(value, tmp_path, weight=2.0, stops=(), steps=STEPS):
    """A run whose task loss stays; `value(step)` is that of the term, and `stops` resume it."""
    hook, storage = LossWatch(), EventStorage(0)
    distiller = SimpleNamespace(scale=0.5, weights={"PKD": weight})
    trainer = SimpleNamespace(distiller=distiller, storage=storage, max_iter=steps)
    for step in range(steps):
        if step in stops:
            torch.save({"model": {}, "watch": hook.state_dict()}, tmp_path / "state.pth")
            hook = LossWatch()
            hook.load_state_dict(read_weights(str(tmp_path / "state.pth"))["watch"])
        hook.trainer, trainer.iter = trainer, step
        hook.before_step()
        factor = distiller.weights["PKD"] * distiller.scale
        storage.put_scalar("loss_PKD_feat", value(step) * factor)
        storage.put_scalar("loss_cls", 1.0)
        distiller.weights["PKD"] *= 1.01 if weight == 1.0 else 1.0  # as a balanced one may
        hook.after_step()
        storage.step()


def falling(until):
    return lambda step: 2.0 - min(step, until) / 400


@pytest.mark.parametrize(("until", "weight", "since"), [
    (400, 2.0, None), (150, 2.0, 200), (60, 2.0, 100), (400, 1.0, None), (60, 1.0, 100),
])  # fmt: skip
def test_what_has_stopped_falling_is_said_once(tmp_path, caplog, until, weight, since):
    """A weight that grows with the steps does not hide it, nor make it up."""
    with caplog.at_level(logging.WARNING):
        trained(falling(until), tmp_path, weight)
    found = [x for x in caplog.messages if "has not fallen" in x]
    assert len(found) == (since is not None)
    assert all(f"loss_PKD_feat has not fallen since step {since}: " in x for x in found)


def test_a_resumed_run_says_the_same(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trained(falling(60), tmp_path)
        first = list(caplog.messages)
        caplog.clear()
        trained(falling(60), tmp_path, stops=(95, 150, 299))
    assert first and caplog.messages == first


def test_short_runs_and_old_checkpoints_say_nothing(tmp_path, caplog):
    trained(lambda step: 1.0, tmp_path, steps=399)
    hook = LossWatch()
    hook.load_state_dict({"seen": {}, "done": True})
    assert not caplog.messages and hook.state_dict()["windows"] == {}
