"""Quality focal losses: values and gradients worked out by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import joint_quality_focal_loss, quality_focal_loss


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("logit", "target", "expected"), [
    (0.0, 0.0, 0.173287), (0.0, 0.8, 0.062383), (math.log(4), 0.8, 0.0),
])  # fmt: skip
def test_one_class(logit, target, expected):
    loss = quality_focal_loss(tensor(logit), tensor(target))
    assert_close(loss, tensor(expected), atol=1e-6, rtol=0)


def test_three_classes():
    loss = quality_focal_loss(torch.zeros(1, 3, dtype=torch.float64), tensor(0.8, 0, 0)[None])
    assert_close(loss.sum(), tensor(0.408957)[0], atol=1e-6, rtol=0)


def logits_of_joint(joint):
    return tensor(math.log(joint / (1 - joint))), tensor(60.0)


@pytest.mark.parametrize(("target", "expected"), [(0.8, 0.352888), (0.0, 0.017980)])
def test_joint_probability(target, expected):
    loss = joint_quality_focal_loss(*logits_of_joint(0.25), tensor(target))
    assert_close(loss, tensor(expected), atol=1e-6, rtol=0)


def test_joint_pulls_both_factors_alike():
    class_logit, quality = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in "cr")
    loss = joint_quality_focal_loss(class_logit, quality, tensor(0.8))
    loss.sum().backward()
    assert_close(loss.detach(), tensor(0.352888), atol=1e-6, rtol=0)
    for x in (class_logit, quality):
        assert_close(x.grad, tensor(-0.271320), atol=1e-6, rtol=0)


def test_certain_quality_leaves_the_plain_loss():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    targets = torch.rand(5, 3, generator=rng, dtype=torch.float64)
    joint = joint_quality_focal_loss(logits, torch.full((5, 1), 60.0).double(), targets)
    assert_close(joint, quality_focal_loss(logits, targets))


@pytest.mark.parametrize("beta", [1.0, 2.0, 1.5])
def test_gradients(beta):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    quality = torch.randn(4, 1, generator=rng, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(4, 3, generator=rng, dtype=torch.float64)
    torch.autograd.gradcheck(lambda z: quality_focal_loss(z, targets, beta), logits)
    torch.autograd.gradcheck(
        lambda z, r: joint_quality_focal_loss(z, r, targets, beta), (logits, quality)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_extreme_logits_stay_finite(dtype):
    logits = torch.tensor([[-80.0, 80.0, 0.0]], dtype=dtype, requires_grad=True)
    quality = torch.tensor([[80.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 0.5]])
    for loss in (
        quality_focal_loss(logits, targets), joint_quality_focal_loss(logits, quality, targets)
    ):  # fmt: skip
        assert loss.dtype == torch.float32 and bool(loss.isfinite().all())
        loss.sum().backward()
        assert bool(logits.grad.isfinite().all())
