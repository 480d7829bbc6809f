"""Rounded activations and weights, with numbers worked out by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2kd.quantize.layers import Range, quantize_layer, round_weight, steps_of


def test_a_range_is_the_mean_of_batches_and_holds_zero():
    one = Range()
    one(torch.tensor([-1.0, 3.0]))
    assert (one.low, one.high, one.seen) == (-1, 3, 1)
    one(torch.tensor([2.0, 5.0]))  # its minimum counts as 0
    assert (one.low, one.high, one.seen) == (-0.5, 4, 2)
    one.eval()(torch.tensor([-9.0, 9.0]))
    assert (one.low, one.high, one.seen) == (-0.5, 4, 2)


def test_a_range_forgets_after_a_hundred_batches():
    one = Range()
    one.low.fill_(-1.0), one.high.fill_(1.0), one.seen.fill_(1000.0)
    one(torch.tensor([-2.0, 3.0]))
    assert_close(torch.stack([one.low, one.high]), torch.tensor([-1.01, 1.02]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_leave_a_range_alone(bad):
    one = Range()
    one(torch.tensor([-1.0, 3.0]))
    one(torch.tensor([-8.0, bad]))
    assert (one.low, one.high, one.seen) == (-1, 3, 1)


def test_values_are_rounded_to_256_steps_and_cut_off():
    one = Range().eval()
    one.low.fill_(-64.0), one.high.fill_(191.0)  # steps of 1, 0 is the 64th
    x = torch.tensor([-70.0, -64.0, 0.4, 0.6, 2.5, 191.0, 200.0], requires_grad=True)
    assert one(x).tolist() == [-64, -64, 0, 1, 2, 191, 191]
    one(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_an_empty_batch_is_no_batch():
    one = Range()
    assert one(torch.zeros(0, 3)).shape == (0, 3)
    assert one.seen == 0


def test_weights_have_steps_by_channel():
    weight = torch.tensor([127.0, 1.4, -0.6, 1.27, 0.014, 0.0]).reshape(2, 3, 1, 1)
    rounded = round_weight(weight, steps_of(weight)).flatten().tolist()
    assert rounded == pytest.approx([127, 1, -1, 1.27, 0.01, 0], abs=1e-6)


def test_a_weight_that_is_fixed_for_a_file_is_rounded_alike():
    layer = nn.Conv2d(3, 4, 3)
    quantize_layer(layer, [])
    layer.rounds = True
    trained = layer.weight
    layer.fix()
    assert torch.equal(layer.weight, trained)


@pytest.mark.parametrize("gain", [0.37, -2.6])
def test_a_factor_on_a_channel_moves_its_steps_alone(gain):
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    moved = weight * gain
    rounded = round_weight(weight, steps_of(weight))
    assert_close(round_weight(moved, steps_of(moved)), rounded * gain)


def test_a_layer_that_does_not_round_is_the_float_one():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    plain, x = copy.deepcopy(layer), torch.randn(2, 3, 8, 8)
    quantize_layer(layer, ["input_range", "output_range"])
    assert list(layer.state_dict()) == ["weight", "bias"] and isinstance(layer, nn.Conv2d)
    assert torch.equal(layer(x), plain(x)) and layer.weight is layer._parameters["weight"]
    layer.rounds = True
    rounded = layer(x)
    assert 0 < (rounded - plain(x)).abs().max() < 0.1
    assert len(rounded.unique()) <= 256
    rounded.sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in layer.parameters())


def test_a_copy_is_a_layer_of_its_own():
    layer = nn.Conv2d(3, 4, 3)
    quantize_layer(layer, ["input_range"])
    layer.rounds = True
    copied = copy.deepcopy(layer)
    copied(torch.ones(1, 3, 8, 8))
    assert copied.input_range.seen == 1 and layer.input_range.seen == 0
