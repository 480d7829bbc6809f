"""Gradients and losses that would spoil a run, or teach nothing."""

import logging

import pytest
import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from d2kd.engine.hooks.gradient_guard import GradientGuard, gradient_norm
from d2kd.engine.hooks.loss_watch import describe_terms


class Line(nn.Module):
    """The loss is the weight times the batch's number, and another one that is always fine."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.ones(1))

    def forward(self, x):
        y = self.weight * 2 + self.bias
        y.register_hook(lambda grad: grad * x)  # the loss is finite whatever its gradient is
        return {"loss": y.sum()}


def run(batches, **options):
    """Weights behind every step."""
    model, weights = Line(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    trainer = SimpleTrainer(model, [float(x) for x in batches], optimizer)
    guard = GradientGuard(**options)
    trainer.register_hooks([guard])
    for trainer.iter in range(len(batches)):
        trainer.run_step()
        guard.check()
        weights.append(model.weight.item())
    return weights, guard


def test_norm_of_all_gradients():
    assert gradient_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == pytest.approx(5.0)
    assert gradient_norm([]) == 0.0
    assert not gradient_norm([torch.tensor([float("nan")]), torch.ones(3)]) < float("inf")


def test_a_gradient_that_is_nan_stops_the_run_and_keeps_the_weights():
    with pytest.raises(FloatingPointError, match="weight, bias are NaN or infinite at iteration 2"):
        run([1, 1, float("nan"), 1])
    before, _ = run([1, 1])
    model_weights = []
    with pytest.raises(FloatingPointError):
        model_weights, _ = run([1, 1, float("inf")])
    assert before[-1] == pytest.approx(1 - 0.2 - 0.2 * 1.9, abs=1e-6) and not model_weights


def test_gradients_whose_norm_alone_is_infinite_stop_the_run():
    with pytest.raises(FloatingPointError, match="of all parameters together .* at iteration 1"):
        run([1, 1e30, 1])


def test_skipped_steps_are_counted_and_change_nothing(event_storage, caplog):
    with caplog.at_level(logging.WARNING):
        weights, guard = run([1, float("nan"), float("inf"), 1], non_finite="skip")
    assert weights[0] == weights[1] == weights[2] > weights[3] and guard.skipped == 2
    assert event_storage.latest()["skipped_steps"][0] == 2
    assert "Iteration 1 is skipped: the gradients of weight, bias" in caplog.text


def test_a_run_that_only_skips_stops():
    with pytest.raises(FloatingPointError, match="step 51 of such steps in a row"):
        run([float("nan")] * 60, non_finite="skip")


def test_spikes_are_skipped_once_the_usual_norm_is_known(caplog):
    weights, guard = run([30] + [1] * 99 + [30, 1], spike=10.0)
    assert guard.skipped == 1 and weights[99] == weights[100] != weights[101]
    assert "its gradient norm 67.1 is over 10 times the usual 2.24" in caplog.text
    again = GradientGuard(spike=10.0)
    again.load_state_dict(guard.state_dict())
    assert again.state_dict() == guard.state_dict() and len(again.state_dict()["norms"]) == 100


def test_mixed_precision_skips_itself_and_is_counted():
    """With the scaler of mixed precision, on the CPU, as AMPTrainer uses it."""
    model = Line()
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu")
    trainer = SimpleTrainer(model, [], optimizer)
    guard = GradientGuard(amp=True)
    trainer.register_hooks([guard])
    for trainer.iter, x in enumerate([1.0, float("inf"), 1.0]):
        optimizer.zero_grad()
        scaler.scale(model(x)["loss"]).backward()
        trainer.after_backward()
        scaler.step(optimizer)
        scaler.update()
        guard.check()
    assert guard.skipped == 1 and model.weight.item() == pytest.approx(1 - 2 * 0.2)
    assert scaler.get_scale() == 2.0**15


def test_unknown_reaction():
    with pytest.raises(ValueError, match="SOLVER.GUARD.NON_FINITE: unknown 'skp'. Did you mean"):
        GradientGuard("skp")


def test_terms_that_teach_nothing_or_rule():
    seen = {"loss_cls": [1.0, 1.0], "loss_box_reg": [0.5, 0.5], "loss_PKD_feat": [0.0, 0.0],
            "loss_BCKD_cls": [30.0, 30.0], "loss_BCKD_loc": [1.0, 0.0]}  # fmt: skip
    zero, large = describe_terms(seen, {"PKD": 6.0, "BCKD": 1.0})
    assert zero.startswith("loss_PKD_feat was exactly zero in 2 distilled steps")
    assert large.startswith("loss_BCKD_cls is 20 times the task losses together")
    assert "DISTILL.BCKD.WEIGHT" in large and "GATE" not in zero
    assert describe_terms(seen, {"PKD": 0.0, "BCKD": 0.0})[0] == large
    assert describe_terms({"loss_cls": [1.0]}, {"PKD": 1.0}) == []
