"""Structured KD's masks and distances: cases worked out by hand, limits, gradients.

TEACHER and STUDENT, one image of 2 channels and 2 x 2 cells, are 1 0 0 1 | 3 0 0 0 and
0 1 0 1 | 1 0 0 -1. The mean absolute values over channels are 2, 0, 0, 0.5 and 0.5, 0.5, 0, 1, so
that at T = 0.5 the teacher's mask is 4 softmax(4, 0, 0, 1) = 3.681823, 0.067435, 0.067435, 0.183307
and the student's 4 softmax(1, 1, 0, 2) = 0.786448, 0.786448, 0.289318, 2.137787.
"""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import (
    channel_mask,
    channel_pool,
    masked_distance,
    spatial_mask,
    spatial_pool,
)

TEACHER = torch.tensor([[[[1.0, 0], [0, 1]], [[3, 0], [0, 0]]]], dtype=torch.float64)
STUDENT = torch.tensor([[[[0.0, 1], [0, 1]], [[1, 0], [0, -1]]]], dtype=torch.float64)
BOTH = (TEACHER, STUDENT)
SIZES = [(200, 304), (100, 152), (50, 76), (25, 38), (13, 19), (7, 10)]  # P2..P7 of 800 x 1216


def near(value, expected, atol=1e-6):
    expected = torch.tensor(expected, dtype=value.dtype)
    assert_close(value.detach().flatten().squeeze(), expected, atol=atol, rtol=0)


def random_map(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=g)


@pytest.mark.parametrize("fuse", ["avg", "sum"])
def test_masks_have_mean_one_and_ignore_signs(fuse):
    x, y = random_map(0, 3, 5, 4, 7), random_map(1, 3, 5, 4, 7)
    for mask in (spatial_mask, channel_mask):
        m = mask([x, y], 0.5, fuse)
        assert_close(m.flatten(1).mean(1), torch.ones(3, dtype=torch.float64))
        assert torch.equal(m, mask([-x, y.abs()], 0.5, fuse))
        assert_close(mask([x, y], 1e9, fuse), torch.ones_like(m))
        constant = torch.full_like(x, 3.0)
        assert_close(mask([constant], 0.1, fuse), torch.ones_like(m))
    assert spatial_mask([x], 1.0).shape == (3, 1, 4, 7)
    assert channel_mask([x], 1.0).shape == (3, 5, 1, 1)


def test_images_have_masks_of_their_own():
    x, y = random_map(0, 1, 5, 4, 7), random_map(1, 1, 5, 4, 7)
    for mask in (spatial_mask, channel_mask):
        assert_close(mask([torch.cat([x, y])], 0.3)[1:], mask([y], 0.3))


@pytest.mark.parametrize(("temperature", "spatial", "channel", "one", "two"), [
    (0.5, [2.234135, 0.426941, 0.178376, 1.160547], [0.877541, 1.122459], 3.571857, 3.697130),
    (0.1, [2.013295, 0.013296, 0.000090, 1.973319], [0.575858, 1.424142], 3.471756, 3.930164),
])  # fmt: skip
def test_mean_of_two_masks(temperature, spatial, channel, one, two):
    m_s, m_c = spatial_mask(BOTH, temperature), channel_mask(BOTH, temperature)
    near(m_s, spatial)
    near(m_c, channel)
    near(masked_distance(STUDENT, TEACHER, [m_s]), one)
    near(masked_distance(STUDENT, TEACHER, [m_s, m_c]), two)


@pytest.mark.parametrize(("temperature", "one", "two"), [
    (0.5, 4.214885, 4.516286), (0.1, 4.472055, 5.493484),
])  # fmt: skip
def test_mask_of_the_summed_maps(temperature, one, two):
    m_s, m_c = (mask(BOTH, temperature, "sum") for mask in (spatial_mask, channel_mask))
    near(masked_distance(STUDENT, TEACHER, [m_s]), one)
    near(masked_distance(STUDENT, TEACHER, [m_s, m_c]), two)


def test_distance_is_a_root_of_a_sum():
    near(masked_distance(STUDENT, TEACHER), 7**0.5)
    s, t = (torch.cat([x, x]) for x in (STUDENT, TEACHER))
    near(masked_distance(s, t, [spatial_mask([t, s], 0.5)]), 5.051369)


def test_two_half_batches_give_less_than_one_batch():
    s, t = random_map(0, 4, 16, 20, 20), random_map(1, 4, 16, 20, 20)
    halves = sum(masked_distance(s[i : i + 2], t[i : i + 2]) for i in (0, 2)) / 2
    near(halves / masked_distance(s, t), 0.7071, atol=1e-3)


@pytest.mark.parametrize(("absolute", "channel"), [(False, 0.75), (True, 0.25)])
def test_attention_transfer(absolute, channel):
    """Channel means are 0.5, 0.75 and 0.5, 0 (0.5 in absolute value); cell means 2 0 0 0.5 and
    0.5 0.5 0 0 (1): sqrt(2.25 + 0.25 + 0.25) either way."""
    pooled = [[pool(x, absolute) for x in BOTH] for pool in (channel_pool, spatial_pool)]
    near(masked_distance(*pooled[0]), channel)
    near(masked_distance(*pooled[1]), 1.658312)


def test_equal_maps_have_gradient_zero():
    x = TEACHER.clone().requires_grad_()
    loss = masked_distance(x, TEACHER, [spatial_mask([TEACHER, x], 0.5)])
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(x.grad, torch.zeros_like(x))


def test_gradient_and_constant_masks():
    s = random_map(0, 2, 3, 2, 2).requires_grad_()
    t = random_map(1, 2, 3, 2, 2)
    masks = [spatial_mask([t, s], 0.5), channel_mask([t, s], 0.5)]
    assert not any(m.requires_grad for m in masks)
    assert torch.autograd.gradcheck(lambda x: masked_distance(x, t, masks), (s,))
    for pool in (spatial_pool, channel_pool):
        assert torch.autograd.gradcheck(lambda x, p=pool: p(x, True), (s,))
    (constant,) = torch.autograd.grad(masked_distance(s, t, masks), s)
    energy = (t.abs().mean(1, True) / 0.5).flatten(1).softmax(1)
    energy = energy + (s.abs().mean(1, True) / 0.5).flatten(1).softmax(1)
    moving = masked_distance(s, t, [2 * energy.view(2, 1, 2, 2), masks[1]])
    assert_close(moving, masked_distance(s, t, masks))
    assert (torch.autograd.grad(moving, s)[0] - constant).abs().max() > 0.01


def test_gradient_does_not_fade():
    t, d = random_map(0, 1, 8, 6, 6), random_map(1, 1, 8, 6, 6)
    mask = spatial_mask([t], 0.5)
    norms = []
    for size in (1.0, 1e-4):
        s = (t + size * d).requires_grad_()
        masked_distance(s, t, [mask]).backward()
        norms.append(s.grad.norm())
    assert_close(norms[0], norms[1])
    assert mask.min().sqrt() <= norms[0] <= mask.max().sqrt()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_are_summed_in_float32(dtype):
    """256 * 200 * 304 * 0.1^2 = 155648 is more than half precision holds (65504)."""
    s = torch.zeros(1, dtype=dtype).expand(1, 256, 200, 304)
    t = torch.full((1,), 0.1, dtype=dtype).expand(1, 256, 200, 304)
    loss = masked_distance(s, t, [spatial_mask([t, s], 0.5), channel_mask([t, s], 0.5)])
    assert loss.dtype == torch.float32
    assert_close(loss.item(), (256 * 200 * 304) ** 0.5 * t[0, 0, 0, 0].item(), rtol=1e-6, atol=0)
    assert spatial_pool(t).dtype == channel_pool(t, True).dtype == torch.float32


@pytest.mark.parametrize(("sizes", "expected", "weight", "total"), [
    (SIZES[:5], [5579.4, 2789.7, 1394.8, 697.4, 355.6], 7e-5, 0.757),
    (SIZES[1:], [2789.7, 1394.8, 697.4, 355.6, 189.3], 4.2e-4, 2.279),
])  # fmt: skip
def test_magnitude_of_a_unit_difference(sizes, expected, weight, total):
    """sqrt(2 * 256 * H * W) at each level of two images of 800 x 1216."""
    zero, one = torch.zeros(()), torch.ones(())
    losses = []
    for size in sizes:
        s, t = (x.expand(2, 256, *size) for x in (zero, one))
        losses.append(masked_distance(s, t, [spatial_mask([t, s], 0.5)]))
    near(torch.stack(losses), expected, atol=0.06)
    near(weight * sum(losses), total, atol=6e-4)
