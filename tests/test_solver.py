"""AdamW and the one-cycle schedule, against torch and against numbers worked out by hand."""

import math

import pytest
import torch
from detectron2.solver.build import build_optimizer as build_stock_optimizer
from torch import nn

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.solver import build_lr_scheduler, build_optimizer, scale_learning_rate


def config(**solver):
    cfg = get_d2kd_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WEIGHT_DECAY = 0.01, 100, 0.1
    for key, value in solver.items():
        cfg.merge_from_list([f"SOLVER.{key}", value])
    return cfg


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))


def step(model, optimizer, scale=1.0):
    optimizer.zero_grad()
    (scale * model(torch.linspace(0, 1, 16).view(2, 2, 2, 2)).square().sum()).backward()
    optimizer.step()


def settings(optimizer, model):
    """Parameter name to (lr, weight decay)."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_adamw_honours_the_decay_and_bias_keys():
    model = network()
    cfg = config(OPTIMIZER="AdamW", WEIGHT_DECAY_NORM=0.02, WEIGHT_DECAY_BIAS=0.03,
                 BIAS_LR_FACTOR=2.0)  # fmt: skip
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    found = settings(optimizer, model)
    assert found["0.weight"] == (0.01, 0.1) and found["1.weight"] == (0.01, 0.02)
    assert found["0.bias"] == (0.02, 0.03)
    assert set(found) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["AdamW", "Adam"])
def test_adam_steps_like_torch(name):
    mine, reference = network(), network()
    optimizer = build_optimizer(config(OPTIMIZER=name, WEIGHT_DECAY_NORM=0.1), mine)
    expected = getattr(torch.optim, name)(reference.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        step(mine, optimizer)
        step(reference, expected)
    for a, b in zip(mine.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_adamw_clips_each_parameter():
    model = network()
    cfg = config(OPTIMIZER="AdamW")
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "norm", 0.5
    step(model, build_optimizer(cfg, model), scale=1e4)
    norms = [p.grad.norm().item() for p in model.parameters()]
    assert max(norms) == pytest.approx(0.5, rel=1e-4)
    unclipped = network()
    step(unclipped, build_optimizer(config(OPTIMIZER="AdamW"), unclipped), scale=1e4)
    assert max(p.grad.norm().item() for p in unclipped.parameters()) > 5


def test_sgd_is_detectron2s():
    mine, stock = network(), network()
    cfg = config(MOMENTUM=0.8, NESTEROV=True, WEIGHT_DECAY_NORM=0.05)
    optimizer, expected = build_optimizer(cfg, mine), build_stock_optimizer(cfg, stock)
    assert type(optimizer) is type(expected) is torch.optim.SGD
    assert settings(optimizer, mine) == settings(expected, stock)
    for _ in range(3):
        step(mine, optimizer)
        step(stock, expected)
    for a, b in zip(mine.parameters(), stock.parameters(), strict=True):
        assert torch.equal(a, b)


def one_cycle(steps=100):
    model = network()
    cfg = config(OPTIMIZER="AdamW", LR_SCHEDULER_NAME="OneCycleLR", ONECYCLE_PCT_START=0.25)
    cfg.SOLVER.MAX_ITER = steps
    optimizer = build_optimizer(cfg, model)
    return model, optimizer, build_lr_scheduler(cfg, optimizer)


def rates(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_one_cycle_by_hand():
    _, optimizer, scheduler = one_cycle()
    lr = rates(optimizer, scheduler, 100)
    assert lr[0] == pytest.approx(0.01 / 25)
    assert lr[25] == pytest.approx(0.01) and max(lr) == lr[25]
    # half way down the second arc, iteration 62.5: the mean of peak and end
    assert (lr[62] + lr[63]) / 2 == pytest.approx(0.01 * (1 + 4e-6) / 2, rel=1e-3)
    last = 4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * 74 / 75)) / 2
    assert lr[99] == pytest.approx(0.01 * last, rel=1e-6)
    assert all(a < b for a, b in zip(lr[:25], lr[1:26], strict=True))
    assert all(a > b for a, b in zip(lr[25:-1], lr[26:], strict=True))


def test_one_cycle_resumes():
    _, optimizer, scheduler = one_cycle()
    whole = rates(optimizer, scheduler, 100)
    _, optimizer, scheduler = one_cycle()
    first = rates(optimizer, scheduler, 40)
    state = scheduler.state_dict(), optimizer.state_dict()
    _, optimizer, scheduler = one_cycle()
    optimizer.load_state_dict(state[1])
    scheduler.load_state_dict(state[0])
    assert first + rates(optimizer, scheduler, 60) == pytest.approx(whole)


@pytest.mark.parametrize(("key", "value", "match"), [
    ("OPTIMIZER", "Adamax", "SOLVER.OPTIMIZER is 'Adamax'.*'AdamW', 'Adam'"),
    ("LR_SCHEDULER_NAME", "OneCycle", "SOLVER.LR_SCHEDULER_NAME is 'OneCycle'.*'OneCycleLR'"),
    ("ONECYCLE_PCT_START", 1.0, "SOLVER.ONECYCLE_PCT_START is 1.0"),
    ("ONECYCLE_PCT_START", 0.0, "SOLVER.ONECYCLE_PCT_START is 0.0"),
])  # fmt: skip
def test_unknown_values_name_their_key(key, value, match):
    name = {} if key == "LR_SCHEDULER_NAME" else {"LR_SCHEDULER_NAME": "OneCycleLR"}
    cfg = config(**name, **{key: value})
    with pytest.raises(ValueError, match=match):
        build_lr_scheduler(cfg, build_optimizer(cfg, network()))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_full_model_clipping_clips_the_gradient_of_all_parameters_together(name):
    mine, reference = network(), network()
    options = {"OPTIMIZER": name, "CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_VALUE": 0.5}
    optimizer = build_optimizer(
        config(**options, **{"CLIP_GRADIENTS.CLIP_TYPE": "full_model"}), mine
    )
    plain = build_optimizer(config(OPTIMIZER=name), reference)
    for _ in range(2):
        step(mine, optimizer, 10.0)
        plain.zero_grad()
        (10 * reference(torch.linspace(0, 1, 16).view(2, 2, 2, 2)).square().sum()).backward()
        norm = torch.stack([p.grad.square().sum() for p in reference.parameters()]).sum().sqrt()
        assert norm > 0.5
        for parameter in reference.parameters():
            parameter.grad *= 0.5 / norm
        plain.step()
    for a, b in zip(mine.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_scaled_parameters_get_their_own_rate_and_keep_the_rest(name):
    model = network()
    optimizer = build_optimizer(config(OPTIMIZER=name, WEIGHT_DECAY_NORM=0.02), model)
    before = settings(optimizer, model)
    other = nn.Linear(1, 1)
    scale_learning_rate(optimizer, [*model[1].parameters(), model[2].weight, other.weight], 0.1)
    rates = settings(optimizer, model)
    for key, (rate, decay) in before.items():
        factor = 0.1 if key in ("1.weight", "1.bias", "2.weight") else 1.0
        assert rates[key] == (pytest.approx(rate * factor), decay)
    assert all(group["params"] for group in optimizer.param_groups)
    step(model, optimizer)


def test_a_factor_of_one_changes_no_group():
    model = network()
    optimizer = build_optimizer(config(), model)
    groups = [list(map(id, group["params"])) for group in optimizer.param_groups]
    scale_learning_rate(optimizer, model.parameters(), 1.0)
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == groups
