"""Losses of points that are assigned to boxes of a set: values and gradients of the toy cases."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import quality_focal_loss
from d2kd.losses.sets import region_targets, set_class_loss, soft_cross_entropy

Z = (1.0, 0.0, 0.0)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def near(found, *expected):
    assert_close(found, tensor(*expected).view(found.shape), atol=1.5e-6, rtol=0)


def test_soft_targets_of_dense_points():
    z, y = tensor(0, -2).requires_grad_(), tensor(0.8, 0.1)
    near(quality_focal_loss(z, y), 0.062383, 0.000121)
    (grad,) = torch.autograd.grad(quality_focal_loss(z, y).sum(), z)
    near(grad, -0.130972, 0.001325)
    there = torch.logit(y).requires_grad_()
    loss = set_class_loss(there, y, tensor(1).squeeze())
    loss.backward()
    near(loss, 0.0)
    near(there.grad, 0.0, 0.0)


def test_classes_that_are_not_known_have_no_terms():
    z = tensor(0, -2).requires_grad_()
    known = torch.tensor([True, False])
    loss = set_class_loss(z[None], tensor(0.8, 0)[None], tensor(1.0), known)
    loss.backward()
    near(loss, 0.062383)
    near(z.grad, -0.130972, 0.0)


@pytest.mark.parametrize(("probabilities", "label", "target", "value", "gradient"), [
    ((0.6, 0.1), False, (0.6, 0.1, 0.3), 0.951445, (-0.023883, 0.111942, -0.088058)),
    ((0.9, 0.4), False, (0.692308, 0.307692, 0), 0.859137, (-0.116191, -0.095751, 0.211942)),
    ((0.5, 0.2), False, (0.5, 0.2, 0.3), 1.051445, (0.076117, 0.011942, -0.088058)),
    ((0.0, 0.0), False, (0, 0, 1), 1.551445, (0.576117, 0.211942, -0.788058)),
    ((0.7, 0.0), True, (1, 0, 0), 0.386011, (-0.296718, 0.148359, 0.148359)),
])  # fmt: skip
def test_regions(probabilities, label, target, value, gradient):
    """The box of which the class alone is known weighs its score, 0.7."""
    z = tensor(*Z).requires_grad_()
    y = region_targets(tensor(*probabilities)[None], torch.tensor([label]))
    near(y, *target)
    loss = soft_cross_entropy(z[None], y).sum() * (0.7 if label else 1)
    loss.backward()
    near(loss, value)
    near(z.grad, *gradient)


def test_columns_that_are_not_known_leave_the_softmax():
    z = tensor(1, 5, 0).requires_grad_()
    known = torch.tensor([True, False])
    loss = soft_cross_entropy(z[None], tensor(0.6, 0, 0.4)[None], known)
    expected = -(tensor(0.6, 0.4) * tensor(1, 0).log_softmax(0)).sum()
    assert_close(loss[0], expected)
    loss.sum().backward()
    assert z.grad[1] == 0 and bool(z.grad.isfinite().all())
    all_known = torch.tensor([True, True])
    y = tensor(0.6, 0.1, 0.3)[None]
    assert torch.equal(soft_cross_entropy(z[None], y, all_known), soft_cross_entropy(z[None], y))


def test_gradients():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, generator=g, dtype=torch.float64, requires_grad=True)
    p = torch.rand(3, 3, generator=g, dtype=torch.float64)
    known = torch.tensor([True, True, False])
    y = region_targets(p * known, torch.tensor([False, True, False]))
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(x, y, known), (z,))
    weight = torch.rand(3, generator=g, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: set_class_loss(x[:, :3], p, weight, known), (z,))


def test_nothing_and_half_precision():
    empty = torch.zeros(0, 4, requires_grad=True)
    y = region_targets(torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool))
    assert soft_cross_entropy(empty, y).sum() == 0
    loss = set_class_loss(torch.full((1, 2), 60.0).half(), torch.rand(1, 2), torch.ones(1))
    assert loss.dtype == torch.float32 and bool(loss.isfinite())
    loss = soft_cross_entropy(torch.tensor([[9e3, -9e3]]).half(), torch.tensor([[0.0, 1.0]]))
    assert loss.dtype == torch.float32 and loss.item() == 18000
