"""Weights of key regions of any shape and spread, in the types that training uses."""

import math
from fractions import Fraction

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close

from d2kd.heads.key_region import gaussian_weights
from d2kd.testing import make_batch
from tests.heads.test_pgd import run


def weights_of(points):
    return gaussian_weights(points, torch.ones(points.shape[:-1], dtype=torch.bool))


def exact(points):
    """The formula in fractions; only the last exponential rounds."""
    points = [(Fraction(x), Fraction(y)) for x, y in points.tolist()]
    x, y = ([p[i] - sum(q[i] for q in points) / len(points) for p in points] for i in range(2))
    ridge = Fraction(1, 1200)
    xx, yy, xy = (
        sum(a * b for a, b in zip(u, v, strict=True)) / len(points) + r
        for u, v, r in ((x, x, ridge), (y, y, ridge), (x, y, 0))
    )
    pairs = zip(x, y, strict=True)
    distances = [(yy * a * a - 2 * xy * a * b + xx * b * b) / (xx * yy - xy * xy) for a, b in pairs]
    return torch.tensor([math.exp(-float(d) / 2) for d in distances])


@pytest.mark.parametrize("stride", [8, 32, 64, 128, 1250])
def test_points_on_a_diagonal(stride):
    """Two points are one deviation from their mean; of nine the second is 3 steps of 2.58."""
    two = weights_of(torch.tensor([[0.0, 0], [4.0 * stride, 4.0 * stride]]))
    assert_close(two, torch.full((2,), 0.60653), atol=1e-5, rtol=0)
    nine = weights_of(torch.arange(9.0)[:, None].expand(9, 2) * stride)
    assert_close(nine[:5], torch.tensor([0.30119, 0.50916, 0.74082, 0.92774, 1]), atol=1e-5, rtol=0)
    assert_close(nine, nine.flip(0))


@pytest.mark.parametrize("spread", [16.0, 500.0, 10_000.0])
@pytest.mark.parametrize("members", [2, 3, 9, 30])
def test_any_shape_equals_the_formula(spread, members):
    rng = torch.Generator().manual_seed(members)
    x = spread * torch.rand(members, generator=rng)
    near = torch.rand(members, generator=rng)
    for y in (x, -0.37 * x + spread, x / 3 + near, 1000 * near, near * 0 + 5, x * 1e-4):
        points = torch.stack([x, y], 1)
        assert_close(weights_of(points), exact(points), atol=1e-6, rtol=0)
        assert_close(weights_of(points.flip(1)), weights_of(points), atol=1e-6, rtol=0)


def test_a_pair_whose_best_cells_lie_on_a_diagonal():
    batch = make_batch(sizes=((512, 512),), boxes=1)
    whole = Instances((512, 512), gt_boxes=Boxes(torch.tensor([[10.0, 10, 500, 500]])))
    whole.gt_classes = torch.zeros(1, dtype=torch.int64)
    batch[0]["instances"] = whole
    head, student, teacher = run("ATSS", batch, top_k=2)
    cells = 512 // 8
    for scores in teacher.scores.values():
        scores.zero_()
    for x in (128, 384):
        teacher.scores[8][0, x // 8 * cells + x // 8] = 0.9
    for maps in head.weight_maps(student, teacher)[:2]:
        found = torch.cat([x.flatten() for x in maps.values()])
        assert_close(found[found != 0], torch.full((2,), math.exp(-0.5)), atol=1e-5, rtol=0)
    losses = head(student, teacher)
    sum(losses.values()).backward()
    grads = [p.grad for p in student.adapter.detector.parameters() if p.grad is not None]
    assert all(bool(x.isfinite()) and float(x) > 0 for x in losses.values())
    assert grads and all(bool(x.isfinite().all()) for x in grads)
