"""Box distributions: integral and distribution focal loss against hand-made numbers."""

import math

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import distribution_focal_loss, integral


def sides(logits):
    """The same 17 logits for all four sides."""
    return logits.repeat(4)


UNIFORM = torch.zeros(17, dtype=torch.float64)


def peaked(probabilities):
    logits = torch.full((17,), -800.0, dtype=torch.float64)
    for index, p in probabilities.items():
        logits[index] = math.log(p)
    return logits


def test_integral():
    assert_close(integral(sides(UNIFORM)), torch.full((4,), 8.0, dtype=torch.float64))
    two = integral(sides(peaked({3: 0.75, 4: 0.25})))
    assert_close(two, torch.full((4,), 3.25, dtype=torch.float64))


def test_channel_is_side_times_bins_plus_bin():
    logits = torch.zeros(68, dtype=torch.float64)
    logits[0 * 17 + 5] = 1e4
    assert_close(integral(logits), torch.tensor([5.0, 8, 8, 8], dtype=torch.float64))


def loss_of(logits, target):
    return distribution_focal_loss(logits, torch.full((4,), target, dtype=torch.float64))


def test_uniform_value_and_gradient():
    logits = sides(UNIFORM).requires_grad_()
    loss = loss_of(logits, 3.25)
    assert_close(loss.detach(), torch.full((4,), math.log(17), dtype=torch.float64))
    loss[1].backward()
    grad = logits.grad.view(4, 17)
    expected = torch.full((17,), 0.058824, dtype=torch.float64)
    expected[3], expected[4] = -0.691176, -0.191176
    assert_close(grad[1], expected, atol=1e-6, rtol=0)
    assert not grad[[0, 2, 3]].any()


def test_minimum_is_the_entropy_of_the_two_bins():
    loss = loss_of(sides(peaked({3: 0.75, 4: 0.25})), 3.25)
    assert_close(loss, torch.full((4,), 0.562335, dtype=torch.float64), atol=1e-6, rtol=0)


def test_far_targets_are_clamped_below_the_last_bin():
    logits = torch.randn(68, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_p = logits.view(4, 17).log_softmax(1)
    assert_close(loss_of(logits, 20.0), -(0.1 * log_p[:, 15] + 0.9 * log_p[:, 16]))
    assert_close(loss_of(logits, -3.0), -log_p[:, 0])


def test_gradients():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 20, generator=rng, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 4, generator=rng, dtype=torch.float64) * 4
    torch.autograd.gradcheck(integral, logits)
    torch.autograd.gradcheck(lambda x: distribution_focal_loss(x, target), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float(dtype):
    logits = torch.randn(3, 68, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_close(integral(logits), integral(logits.float()))
    targets = torch.full((3, 4), 2.5, dtype=dtype)
    loss = distribution_focal_loss(logits, targets)
    assert_close(loss, distribution_focal_loss(logits.float(), targets.float()))


def test_no_boxes():
    logits = torch.zeros(0, 68, requires_grad=True)
    loss = distribution_focal_loss(logits, torch.zeros(0, 4)).sum()
    loss.backward()
    assert loss == 0 and integral(logits).shape == (0, 4)
