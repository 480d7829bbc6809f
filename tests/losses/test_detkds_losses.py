"""DetKDS's distances of normalized maps: hand cases, limits, gradients."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses.detkds import (
    channel_scale,
    global_distance,
    instance_distance,
    region_distance,
    unit,
)
from tests.heads.test_detkds import STUDENT, near


def random_maps(*shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=rng, dtype=torch.float64).unbind()


def test_scale_of_channels():
    """Means of |x| are 1, 1.25 for both images."""
    for x in (STUDENT[:1], STUDENT[1:]):
        near(channel_scale(x), [0.868954, 1.115759])


def test_a_single_image_keeps_its_signs_alone():
    for t, value in ((STUDENT[:1], 0.0), (-STUDENT[:1] - 5, 2.0)):
        s = STUDENT[:1].clone().requires_grad_()
        loss = global_distance(s, t)
        loss.backward()
        near(loss, [value])
        assert not s.grad.any()


def test_odd_maps_are_pooled_with_zeros():
    """Maxima of 2 -1 .5 | 0 1 -3 | -2 -1 -4 are 2 .5 | 0 0; only their signs stay."""
    s = torch.tensor([2, -1, 0.5, 0, 1, -3, -2, -1, -4]).double().view(1, 1, 3, 3)
    near(global_distance(s, torch.zeros_like(s)), [0.5])


def test_norm_of_channels():
    s = torch.tensor([3.0, 0, 4, 1]).double().view(1, 2, 1, 2).requires_grad_()
    t = torch.tensor([0.0, 1, 1, 1]).double().view(1, 2, 1, 2)
    loss = region_distance(s, t, torch.ones(1, 1, 2).double(), "channel")
    loss.backward()
    near(loss, [0.45])
    near(s.grad, [0.056, -0.25, -0.042, 0])


def test_cells_of_either_side_alone():
    """Where a mask keeps one cell of the student and the other of the teacher."""
    s = torch.tensor([3.0, 0, 4, 1]).double().view(1, 2, 1, 2).requires_grad_()
    t = torch.tensor([0.0, 1, 1, 1]).double().view(1, 2, 1, 2)
    first, second = torch.eye(2).double()
    loss = region_distance(s * first, t * second, torch.ones(1, 1, 2).double(), "channel")
    loss.backward()
    near(loss, [0.703553])
    near(s.grad, [0.008, 0, -0.006, 0])


@pytest.mark.parametrize("by", ["channel", "block"])
def test_a_factor_of_the_mask_changes_nothing(by):
    s, t = random_maps(2, 3, 6, 7)
    mask = (torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    assert_close(region_distance(s, t, mask, by), region_distance(s, t, mask * 0.037, by))
    assert region_distance(s, t, mask * 0, by) == 0


def test_blocks_of_a_map_that_they_do_not_fill():
    s, t = random_maps(2, 3, 5, 6)
    both = []
    for x in (s, t):
        padded = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
        padded[..., :5, :6] = x
        blocks = padded.unfold(2, 4, 4).unfold(3, 4, 4)
        both.append(blocks / blocks.square().sum((4, 5), keepdim=True).sqrt())
    found = region_distance(s, t, torch.ones(2, 5, 6).double(), "block")
    assert_close(found, (both[0] - both[1]).abs().mean())


def test_values_near_zero_have_no_gradient():
    x = torch.tensor([[0.0, 0], [1e-13, 0], [3, 4]], dtype=torch.float64).requires_grad_()
    y = unit(x, 1)
    (y * torch.tensor([1.0, 2])).sum().backward()
    assert_close(y.detach(), torch.tensor([[0, 0], [0, 0], [0.6, 0.8]]).double())
    assert not x.grad[:2].any() and x.grad.isfinite().all() and x.grad[2].any()


def test_a_channel_that_outweighs_the_others():
    """Their share of the attention, exp(-600), is 0 in float32: what a root would make NaN."""
    s, t = (x.float() for x in random_maps(2, 3, 4, 4))
    s[:, 0] += 300
    s.requires_grad_()
    boxes = [torch.tensor([[0.0, 0, 20, 20]])] * 2
    for loss in (global_distance(s, t), instance_distance(s, t, boxes, 8)):
        (grad,) = torch.autograd.grad(loss, s)
        assert loss.isfinite() and grad.isfinite().all()


def test_gradients():
    s, t = random_maps(2, 3, 3, 5)
    mask = torch.ones(2, 3, 5).double()
    boxes = [torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([[3.0, 9, 39, 20], [1, 1, 9, 9]])]
    for function in (
        lambda x: global_distance(x, t),
        lambda x: region_distance(x, t, mask, "channel"),
        lambda x: region_distance(x, t, mask, "block"),
        lambda x: instance_distance(x, t, boxes, 8),
    ):
        assert torch.autograd.gradcheck(function, (s.clone().requires_grad_(),))


def test_teachers_are_constant_and_half_precision_is_finite():
    s, t = (x.bfloat16().requires_grad_() for x in random_maps(2, 3, 4, 4))
    mask, boxes = torch.ones(2, 4, 4), [torch.tensor([[0.0, 0, 20, 20]])] * 2
    losses = [
        global_distance(s, t), region_distance(s, t, mask, "channel"),
        region_distance(s, t, mask, "block"), instance_distance(s, t, boxes, 8),
    ]  # fmt: skip
    sum(losses).backward()
    assert {x.dtype for x in losses} == {torch.float32} and t.grad is None
    assert s.grad.isfinite().all()
