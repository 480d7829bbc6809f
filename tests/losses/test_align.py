"""Alignment of channel statistics against hand-made numbers."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import align_channels


def row(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@pytest.mark.parametrize(("student", "teacher", "expected"), [
    ((1, 2, 3, 4), (10, 20, 30, 40), (10, 20, 30, 40)),
    ((4, 3, 2, 1), (10, 20, 30, 40), (40, 30, 20, 10)),
    ((0, 0, 0, 4), (1, 2, 3, 4), (1.854503, 1.854503, 1.854503, 4.436491)),
    ((5, 5, 5, 5), (1, 2, 3, 4), (2.5, 2.5, 2.5, 2.5)),
])  # fmt: skip
def test_values(student, teacher, expected):
    aligned = align_channels(row(*student), row(*teacher))
    assert_close(aligned, row(*expected), atol=2e-5, rtol=0)


def test_takes_the_statistics_of_the_teacher():
    aligned = align_channels(row(0, 0, 0, 4), row(1, 2, 3, 4))
    assert_close(aligned.mean().item(), 2.5)
    assert_close(aligned.std().item(), 1.290994, atol=1e-5, rtol=0)


def test_affine_maps_of_the_student_do_not_matter():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_close(align_channels(3 * x + 7, x), x, atol=3e-6, rtol=0)


def test_gradient_flows_through_the_statistics_and_is_bounded():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 2, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 2, 2, 3, generator=rng, dtype=torch.float64)
    torch.autograd.gradcheck(lambda t: align_channels(t, y), x)
    constant = torch.full((1, 1, 2, 2), 5.0, requires_grad=True)
    (align_channels(constant, y[:, :1, :, :2].float()) * torch.randn(1, 1, 2, 2)).sum().backward()
    assert float(constant.grad.abs().max()) < 1e4


def test_a_single_value_becomes_the_teachers():
    assert_close(align_channels(row(3), row(7)), row(7))
