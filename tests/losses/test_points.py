"""Boxes of points: numbers worked out by hand, gradients, and points that are equal."""

import math

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses.points import boxes_of_points

GRID = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 2)


def box(transform, moment=None, points=GRID):
    moment = None if moment is None else torch.tensor(moment, dtype=torch.float64)
    return boxes_of_points(points.flatten(), transform, moment)


@pytest.mark.parametrize(("transform", "moment", "expected"), [
    ("moment", None, [-0.866025, -0.866025, 0.866025, 0.866025]),
    ("moment", [0.0, 0.0], [-0.866025, -0.866025, 0.866025, 0.866025]),
    ("moment", [math.log(2), 0.0], [-1.732051, -0.866025, 1.732051, 0.866025]),
    ("minmax", None, [-1, -1, 1, 1]),
    ("partial_minmax", None, [-1, -1, 1, 0]),
])  # fmt: skip
def test_by_hand(transform, moment, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    assert_close(box(transform, moment), expected, atol=1e-6, rtol=0)


def test_a_hundredth_of_the_moments_gradient_is_kept():
    moment = torch.tensor([math.log(2), 0.0], dtype=torch.float64, requires_grad=True)
    boxes_of_points(GRID.flatten(), "moment", moment)[2].backward()
    assert_close(moment.grad, torch.tensor([0.01732051, 0.0], dtype=torch.float64))


def test_gradient_of_the_points_by_hand():
    points = GRID.flatten().requires_grad_()
    boxes_of_points(points, "moment")[2].backward()
    by_point = points.grad.view(9, 2)
    found = by_point[[8, 1, 0], 1]
    expected = torch.tensor([0.255449, 0.111111, -0.033226], dtype=torch.float64)
    assert_close(found, expected, atol=1e-6, rtol=0)
    assert not by_point[:, 0].any()


@pytest.mark.parametrize("transform", ["moment", "minmax", "partial_minmax"])
def test_gradients(transform):
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(2, 3, 18, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: boxes_of_points(x, transform), points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_points_are_a_box_without_area(dtype):
    points = torch.zeros(18, dtype=dtype, requires_grad=True)
    found = boxes_of_points(points, "moment", torch.zeros(2))
    found.sum().backward()
    assert found.dtype == torch.float32 and not found.any()
    assert bool(points.grad.isfinite().all())
