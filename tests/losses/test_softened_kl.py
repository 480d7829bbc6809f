"""Softened KL divergence against numbers worked out by hand."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import softened_kl


def bins():
    student, teacher = (torch.zeros(17, dtype=torch.float64) for _ in range(2))
    teacher[3], teacher[4] = 4, 2
    return student.requires_grad_(), teacher


@pytest.mark.parametrize(("temperature", "mean", "total"), [
    (1, 0.089310, 1.518268), (2, 0.072216, 1.227668), (10, 0.037535, 0.638090),
])  # fmt: skip
def test_uniform_student(temperature, mean, total):
    loss = softened_kl(*bins(), temperature)
    assert_close(loss.item(), total, atol=1e-6, rtol=0)
    assert_close(loss.item() / 17, mean, atol=1e-6, rtol=0)


def test_gradient_of_the_mean():
    student, teacher = bins()
    (softened_kl(student, teacher, 10) / 17).backward()
    assert_close(student.grad[3].item(), -0.014940, atol=1e-6, rtol=0)


def test_weighted_positive():
    loss = torch.stack([softened_kl(*bins(), 10) / 17] * 4).mean()
    assert_close(0.25 * 0.6 * loss.item(), 0.005630, atol=1e-6, rtol=0)


def test_two_classes():
    student, teacher = torch.zeros(100, 2).double(), torch.tensor([[2.0, 0]] * 100).double()
    loss = softened_kl(student, teacher, 2) / 2
    assert_close(loss, torch.full_like(loss, 0.221888), atol=1e-6, rtol=0)
    for rows in (1, 100):
        assert_close(10 * loss[:rows].mean().item(), 2.218881, atol=1e-5, rtol=0)


def test_equal_logits_give_zero_and_the_teacher_gets_no_gradient():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).half()
    teacher = (x + 1).requires_grad_()
    student = x.clone().requires_grad_()
    loss = softened_kl(student, teacher, 3)
    assert loss.dtype == torch.float32
    assert_close(loss, torch.zeros(3), atol=1e-5, rtol=0)
    loss.sum().backward()
    assert teacher.grad is None and student.grad is not None
