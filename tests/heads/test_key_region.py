"""Key predictive regions: toy cases worked out by hand, and what holds for any input."""

import math

import pytest
import torch
from torch.testing import assert_close

from d2kd.heads import key_region
from d2kd.heads.key_region import covered, gaussian_weights, key_region_weights

E = math.exp


def weights_of(*points):
    x = torch.tensor(points, dtype=torch.float64)
    return gaussian_weights(x, torch.ones(len(x), dtype=torch.bool))


def grid(columns, rows, stride=8.0):
    """(P, 2) points x, y, row by row, and boxes of 3 strides centered on them."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    points = torch.stack([x, y], -1).flatten(0, 1) * stride
    return points, torch.cat([points - 1.5 * stride, points + 1.5 * stride], 1)


def scene(size, gt, top_k, xi=0.8, swap_axes=False, points=None, boxes=None, scores=None):
    """Weights (P,) and background (P,) of one image whose scores are all 0.9."""
    if points is None:
        points, boxes = grid(*size)
    if scores is None:
        scores = torch.full((len(boxes), 1), 0.9)
    gt = torch.tensor(gt, dtype=torch.float32).view(-1, 4)
    rows = torch.zeros(2, len(gt), dtype=torch.long)
    valid = torch.ones(1, len(points), dtype=torch.bool)
    (weight,) = key_region_weights(
        scores[None], boxes[None], points, valid, gt, rows, (xi,), top_k, swap_axes
    )
    return weight[0], ~covered(points, gt, rows[0], 1, swap_axes)[0]


def at(columns, x, y):
    return y // 8 * columns + x // 8


def random_scene(seed=0, images=2, objects=7, classes=3, per_point=1):
    rng = torch.Generator().manual_seed(seed)
    points = torch.cat([grid(24, 16)[0], grid(12, 8, 16.0)[0]])
    total = len(points) * per_point
    centers = points.repeat_interleave(per_point, 0) + 6 * torch.randn(
        images, total, 2, generator=rng
    )
    half = 10 * torch.randn(images, total, 2, generator=rng).mul(0.5).exp()
    boxes = torch.cat([centers - half, centers + half], -1)
    scores = torch.rand(images, total, classes, generator=rng)
    low = torch.rand(objects, 2, generator=rng) * torch.tensor([150.0, 90.0])
    gt = torch.cat([low, low + 10 + 30 * torch.rand(objects, 2, generator=rng)], 1)
    rows = torch.stack([
        torch.randint(images, (objects,), generator=rng),
        torch.randint(classes, (objects,), generator=rng),
    ])  # fmt: skip
    valid = torch.ones(images, len(points), dtype=torch.bool)
    return {"scores": scores, "boxes": boxes, "points": points, "valid": valid, "gt": gt,
            "rows": rows, "exponents": (0.8, 0.6), "top_k": 9}  # fmt: skip


def by_the_formula(scores, boxes, points, valid, gt, rows, exponents, top_k):
    """One object after another, in float64, as the paper has it."""
    maps = [torch.zeros(valid.shape, dtype=torch.float64) for _ in exponents]
    per_point = boxes.shape[1] // len(points)
    for xi, w in zip(exponents, maps, strict=True):
        for box, n, c in zip(gt.double(), *rows, strict=True):
            b = boxes[n].double()
            low, high = torch.max(b[:, :2], box[:2]), torch.min(b[:, 2:], box[2:])
            inner = (high - low).clamp(min=0).prod(1)
            union = (b[:, 2:] - b[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - inner
            q = scores[n, :, c].double() ** (1 - xi) * (inner / union.clamp(min=1e-6)) ** xi
            q = q.view(-1, per_point).amax(1) * valid[n]
            index = q.topk(min(top_k, len(q))).indices
            index = index[q[index] > 0]
            x = points[index].double()
            delta = x - x.mean(0)
            sigma = delta.T @ delta / len(x) + torch.eye(2, dtype=torch.float64) / 1200
            g = torch.exp(-0.5 * ((delta @ sigma.inverse()) * delta).sum(1))
            inside = ((x > box[:2]) & (x < box[2:])).all(1)
            w[n, index] = torch.maximum(w[n, index], g * inside)
    return [w.float() for w in maps]


def test_quality():
    """Q: p = 1/4, IoU = 1/2 gives 2^-1.2 and 2^-1.4: where another location becomes better."""
    points = torch.tensor([[4.0, 4.0], [5.0, 4.0]])
    boxes = torch.tensor([[0.0, 0, 8, 4], [0.0, 0, 8, 8]])
    for xi, quality in ((0.8, 0.435275), (0.6, 0.378929)):
        for factor, winner in ((0.9999, 0), (1.0001, 1)):
            other = (quality * factor) ** (1 / (1 - xi))
            scores = torch.tensor([[0.25], [other]])
            weight, _ = scene(None, [0, 0, 8, 8], 1, xi, False, points, boxes, scores)
            assert weight.tolist() == [1.0 - winner, float(winner)]


def test_gaussian_of_symmetric_sets():
    square = weights_of((0, 0), (2, 0), (0, 2), (2, 2))
    assert_close(square, torch.full_like(square, E(-1)), atol=1e-3, rtol=0)
    wide = weights_of((0, 0), (4, 0), (0, 2), (4, 2))
    assert_close(wide, square, atol=1e-3, rtol=0)
    triangle = weights_of((0, 0), (80, 0), (0, 80))
    assert_close(triangle, torch.full_like(triangle, 0.367879), atol=1e-5, rtol=0)
    cross = weights_of((0, 0), (80, 0), (-80, 0), (0, 80), (0, -80))
    assert_close(cross, torch.tensor([1, *[0.286505] * 4]).double(), atol=1e-5, rtol=0)
    nine = weights_of(*[(80 * x, 80 * y) for y in range(3) for x in range(3)])
    expected = torch.tensor([0.223130, 0.472367, 0.223130, 0.472367, 1]).double()
    assert_close(nine[:5], expected, atol=1e-5, rtol=0)


def test_gaussian_of_other_sets():
    skew = weights_of((0, 0), (8, 0), (16, 0), (0, 8))
    expected = torch.tensor([0.311403, 0.846482, 0.311403, 0.223130]).double()
    assert_close(skew, expected, atol=1e-4, rtol=0)
    line = weights_of((0, 0), (8, 0), (16, 0))
    expected = torch.tensor([0.472373, 1, 0.472373]).double()
    assert_close(line, expected, atol=1e-6, rtol=0)
    assert_close(weights_of(*[(3, 5)] * 9), torch.ones(9).double())
    assert_close(weights_of((3, 5)), torch.ones(1).double())


def test_mean_squared_distance_is_the_dimension():
    rng = torch.Generator().manual_seed(0)
    x = 100 * torch.rand(50, 9, 2, dtype=torch.float64, generator=rng)
    w = gaussian_weights(x, torch.ones(50, 9, dtype=torch.bool))
    two = torch.full((50,), 2.0, dtype=torch.float64)
    assert_close((-2 * w.log()).mean(1), two, atol=1e-3, rtol=0)
    assert float(w.max()) <= 1 and float(w.min()) >= E(-4)
    line = torch.stack([x[..., 0], 2 * x[..., 0]], -1)
    w = gaussian_weights(line, torch.ones(50, 9, dtype=torch.bool))
    assert_close((-2 * w.log()).mean(1), two / 2, atol=1e-2, rtol=0)


def test_gaussian_does_not_see_affine_maps_and_what_is_no_member():
    rng = torch.Generator().manual_seed(0)
    x = 100 * torch.rand(50, 9, 2, dtype=torch.float64, generator=rng)
    member = torch.ones(50, 9, dtype=torch.bool)
    w = gaussian_weights(x, member)
    matrix = torch.tensor([[2.0, 1.0], [-3.0, 1.5]], dtype=torch.float64)
    assert_close(gaussian_weights(x @ matrix + 7, member), w, atol=1e-3, rtol=0)
    member[:, 5:] = False
    few = gaussian_weights(x, member)
    assert_close(few[:, :5], gaussian_weights(x[:, :5], member[:, :5]))
    assert not few[:, 5:].any()


def test_one_object():
    """M1: 24 px boxes at 5x5 points; IoU 1 in the center, 1/2 on the edges, 2/7 in the corners."""
    weight, background = scene((5, 5), [4, 4, 28, 28], 9)
    block = weight.view(5, 5)[1:4, 1:4]
    nine = torch.tensor([[0.223130, 0.472367, 0.223130], [0.472367, 1, 0.472367],
                         [0.223130, 0.472367, 0.223130]])  # fmt: skip
    assert_close(block, nine, atol=1e-4, rtol=0)
    assert int(weight.count_nonzero()) == 9 and int(background.sum()) == 16
    assert not background.view(5, 5)[1:4, 1:4].any()
    weight, _ = scene((5, 5), [4, 4, 28, 28], 5)
    cross = [at(5, 16, 8), at(5, 8, 16), at(5, 24, 16), at(5, 16, 24)]
    assert_close(weight[cross], torch.full((4,), 0.286505), atol=1e-4, rtol=0)
    assert int(weight.count_nonzero()) == 5 and float(weight[at(5, 16, 16)]) == 1


def test_two_objects_that_overlap():
    """M2: the larger weight stays."""
    weight, background = scene((5, 5), [[4, 4, 28, 28], [12, 4, 36, 28]], 5)
    ones = weight[[at(5, 16, 16), at(5, 24, 16)]]
    assert_close(ones, torch.ones(2))
    rest = [(8, 16), (16, 8), (16, 24), (24, 8), (24, 24), (32, 16)]
    rest = weight[[at(5, x, y) for x, y in rest]]
    assert_close(rest, torch.full((6,), 0.286505), atol=1e-4, rtol=0)
    assert int(weight.count_nonzero()) == 8 and int(background.sum()) == 13


def test_members_outside_of_the_box_shape_the_gaussian_and_weigh_nothing():
    """M3: choosing members inside the box only would give the center 0.135335 or another fit."""
    weight, background = scene((5, 5), [10, 10, 22, 22], 5)
    assert int(weight.count_nonzero()) == 1 and float(weight[at(5, 16, 16)]) == 1
    assert int(background.sum()) == 24


def test_object_without_a_location():
    """M4: smaller than a stride, between the points."""
    weight, background = scene((5, 5), [9, 9, 14, 14], 5)
    assert not weight.any() and bool(background.all())


def test_axes():
    """M5: a wide box covers a wide region; the released code's swapped axes give a tall one."""
    _, background = scene((6, 6), [20, 4, 44, 12], 5)
    free = {at(6, 24, 8), at(6, 32, 8), at(6, 40, 8)}
    assert set((~background).nonzero().flatten().tolist()) == free
    _, background = scene((6, 6), [20, 4, 44, 12], 5, swap_axes=True)
    swapped = {at(6, 8, 24), at(6, 8, 32), at(6, 8, 40)}
    assert set((~background).nonzero().flatten().tolist()) == swapped
    weight, _ = scene((6, 6), [20, 4, 44, 12], 9)
    tall, _ = scene((6, 6), [4, 20, 12, 44], 9)
    assert int(weight.count_nonzero()) == 3
    assert_close(tall.view(6, 6).T.flatten(), weight)
    weight, _ = scene((6, 6), [20, 4, 44, 12], 9, swap_axes=True)
    assert not weight.any()


@pytest.mark.parametrize("per_point", [1, 3])
@pytest.mark.parametrize("exponents", [(0.8, 0.6), (1.0, 0.0), (0.3, 0.5)])
def test_equals_the_formula(per_point, exponents):
    case = random_scene(per_point=per_point)
    case["exponents"] = exponents
    case["valid"][1, ::7] = False
    expected = by_the_formula(**case)
    assert bool(expected[0].any(1).all())
    for mine, theirs in zip(key_region_weights(**case), expected, strict=True):
        assert_close(mine, theirs, atol=1e-4, rtol=0)


def test_exponents_rank_by_class_or_by_box_alone():
    case = random_scene()
    case["exponents"] = (0.0, 1.0)
    by_class, by_box = key_region_weights(**case)
    other = dict(case, scores=case["scores"].flip(1))
    assert not torch.equal(key_region_weights(**other)[0], by_class)
    assert torch.equal(key_region_weights(**other)[1], by_box)
    other = dict(case, boxes=case["boxes"] + 2)
    assert torch.equal(key_region_weights(**other)[0], by_class)
    assert not torch.equal(key_region_weights(**other)[1], by_box)


def test_chunks_do_not_matter(monkeypatch):
    case = random_scene(objects=20)
    image = case["rows"][0]
    whole = key_region_weights(**case), covered(case["points"], case["gt"], image, 2, False)
    monkeypatch.setattr(key_region, "_ELEMENTS", {"cpu": 1000})
    assert torch.equal(torch.stack(key_region_weights(**case)), torch.stack(whole[0]))
    pieces = covered(case["points"], case["gt"], image, 2, False)
    assert torch.equal(pieces, whole[1])


def test_order_repetition_and_addition_of_objects():
    case = random_scene()
    both = torch.stack(key_region_weights(**case))
    outside = ~covered(case["points"], case["gt"], case["rows"][0], 2, False)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = dict(case, gt=case["gt"][order], rows=case["rows"][:, order])
    assert_close(torch.stack(key_region_weights(**shuffled)), both)
    twice = dict(case, gt=case["gt"].repeat(2, 1), rows=case["rows"].repeat(1, 2))
    assert_close(torch.stack(key_region_weights(**twice)), both)
    fewer = dict(case, gt=case["gt"][:5], rows=case["rows"][:, :5])
    assert bool((torch.stack(key_region_weights(**fewer)) <= both + 1e-6).all())
    before = ~covered(case["points"], case["gt"][:5], case["rows"][0, :5], 2, False)
    assert bool((outside <= before).all())


def test_weights_lie_inside_objects_and_background_outside():
    case = random_scene()
    inside = covered(case["points"], case["gt"], case["rows"][0], 2, False)
    for weight in key_region_weights(**case):
        assert not weight[~inside].any()
        assert bool((weight[weight > 0] >= E(-4)).all()) and float(weight.max()) <= 1


def test_mirrored_images_and_permuted_batches():
    case = random_scene()
    maps = torch.stack(key_region_weights(**case))
    mirrored = dict(case, points=case["points"] * torch.tensor([-1.0, 1.0]))
    flip = lambda x: torch.stack([-x[..., 2], x[..., 1], -x[..., 0], x[..., 3]], -1)  # noqa: E731
    mirrored.update(boxes=flip(case["boxes"]), gt=flip(case["gt"]))
    assert_close(torch.stack(key_region_weights(**mirrored)), maps, atol=1e-4, rtol=0)
    rows = torch.stack([1 - case["rows"][0], case["rows"][1]])
    swapped = dict(case, boxes=case["boxes"].flip(0), scores=case["scores"].flip(0), rows=rows)
    assert_close(torch.stack(key_region_weights(**swapped)), maps.flip(1))


def test_fewer_locations_than_the_region_asks_for():
    weight, _ = scene((2, 2), [-1, -1, 9, 9], 30)
    assert_close(weight, torch.full((4,), E(-1)), atol=1e-3, rtol=0)


def test_padding_is_never_chosen():
    case = random_scene()
    case["valid"][:, 10:] = False
    for weight in key_region_weights(**case):
        assert not weight[:, 10:].any()


@pytest.mark.parametrize("gt", [
    [], [[20, 20, 20, 40]], [[-90, -90, -50, -50]], [[20, 20, 20, 20]], [[30, 30, 10, 10]],
])  # fmt: skip
def test_no_object_and_objects_without_area_or_outside_of_the_image(gt):
    weight, background = scene((5, 5), gt, 5)
    assert not weight.any() and bool(background.all())
