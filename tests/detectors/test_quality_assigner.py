"""DDOD's assignment: numbers worked out by hand, and a per-box reference without vectorization."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.detectors.assigner import mean_plus_deviation, nearest_anchors
from d2kd.detectors.quality_assigner import (
    Objects,
    Predictions,
    quality,
    quality_assign,
)
from tests.detectors.test_assigner import box, grid, pairwise

D3 = box(4, 4, 28, 28)


def square(cells, side, probability=0.9):
    """A level of stride 8 with one class, where each cell predicts a square around itself."""
    levels = grid(8 * cells, 8 * cells, (8,))
    centers = (levels[0][:, :2] + levels[0][:, 2:]) / 2
    boxes = torch.cat([centers - side / 2, centers + side / 2], 1)
    return levels, torch.full((len(boxes),), probability, dtype=torch.float64), boxes


def assign(levels, probability, boxes, gt, exponents, rule="atss", topk=9):
    """Matches (R,) of one image, for each exponent; predictions are the boxes themselves."""
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    logits = probability.logit().view(1, -1, 1)
    predicted = Predictions(levels, valid, logits, boxes[None], lambda deltas, anchors: deltas)
    objects = Objects(gt, *(torch.zeros(len(gt), dtype=torch.long),) * 2)
    return [x[0] for x in quality_assign(predicted, objects, exponents, topk, rule)]


def points(levels, match, row=0):
    """Centers of the anchors that belong to a box."""
    centers = (levels[0][:, :2] + levels[0][:, 2:]) / 2
    return {tuple(x) for x in centers[match == row].int().tolist()}


def qualities(levels, probability, boxes, gt, exponent):
    """Quality and threshold of the nine nearest cells, best first."""
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    index, near = nearest_anchors(levels, valid, gt, torch.zeros(1, dtype=torch.long), 9)
    q = quality(probability[index], pairwise(boxes[index[0]], gt).T, exponent)
    return q[0].sort(descending=True).values, mean_plus_deviation(q, near).item()


def test_quality_by_hand():
    """Toy D1."""
    score, iou = torch.tensor(0.25).double(), torch.tensor(0.5).double()
    for exponent, expected in ((0.8, 0.435275), (0.5, 0.353553), (0.6, 0.378929)):
        assert_close(quality(score, iou, exponent).item(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("exponent", "center", "edge", "corner", "threshold"), [
    (0.8, 0.979148, 0.562373, 0.359413, 0.718830), (0.5, 0.948683, 0.670820, 0.507093, 0.774115),
])  # fmt: skip
def test_one_box_by_hand(exponent, center, edge, corner, threshold):
    """Toy D3: 5 x 5 cells, predictions of 24 px."""
    case = square(5, 24)
    q, limit = qualities(*case, D3, exponent)
    assert_close(q, torch.tensor([center, *[edge] * 4, *[corner] * 4]).double(), atol=1e-6, rtol=0)
    assert_close(limit, threshold, atol=1e-6, rtol=0)
    (match,) = assign(*case, D3, (exponent,))
    assert points(case[0], match) == {(16, 16)}
    (match,) = assign(*case, D3, (exponent,), "topk")
    assert len(points(case[0], match)) == 9


def test_predictions_that_overlap_nothing():
    """Toy D4: every candidate inside by "atss", none by "topk"."""
    levels, probability, boxes = square(5, 24)
    case = levels, probability, boxes + 1000
    assert [len(points(levels, x)) for x in assign(*case, D3, (0.8, 0.5))] == [9, 9]
    assert [len(points(levels, x)) for x in assign(*case, D3, (0.8, 0.5), "topk")] == [0, 0]


def test_two_boxes_by_hand():
    """Toy D5."""
    case, gt = square(5, 24), torch.cat([D3, box(12, 4, 36, 28)])
    (match,) = assign(*case, gt, (0.5,))
    assert points(case[0], match, 0) == {(16, 16)} and points(case[0], match, 1) == {(24, 16)}
    (swapped,) = assign(*case, gt.flip(0), (0.5,))
    assert points(case[0], swapped, 1) == {(16, 16)} and points(case[0], swapped, 0) == {(24, 16)}


def test_the_branches_differ():
    """Toy D6: a box of 29 x 29 px, predicted wider from column to column."""
    gt, (levels, probability, _) = box(7, 5, 36, 34), square(6, 24, 0.2)
    column = torch.arange(36) % 6
    row = torch.arange(36) // 6
    boxes = gt.repeat(36, 1)
    boxes[:, 2] += column
    probability[((column == 2) | (column == 3)) & ((row == 2) | (row == 3))] = 0.8
    for exponent, threshold, two, three in (
        (0.8, 0.889454, 0.906665, 0.883927),
        (0.5, 0.845999, 0.865094, 0.851469),
    ):
        q, limit = qualities(levels, probability, boxes, gt, exponent)
        assert_close(limit, threshold, atol=1e-6, rtol=0)
        assert_close(q[:4], torch.tensor([two, two, three, three]).double(), atol=1e-6, rtol=0)
    cls, reg = assign(levels, probability, boxes, gt, (0.8, 0.5))
    assert points(levels, cls) == {(16, 16), (16, 24)}
    assert points(levels, reg) == {(16, 16), (16, 24), (24, 16), (24, 24)}


def reference(predicted, image, gt, classes, exponent, rule, topk):
    """One image, one box after the other."""
    anchors, valid = torch.cat(predicted.anchors), predicted.valid[image]
    centers, logits = (anchors[:, :2] + anchors[:, 2:]) / 2, predicted.logits[image]
    result, best = [-1] * len(anchors), [-1.0] * len(anchors)
    for g, (target, label) in enumerate(zip(gt, classes.tolist(), strict=True)):
        iou = pairwise(predicted.deltas[image], target[None])[:, 0]
        q = logits[:, label].sigmoid() ** (1 - exponent) * iou**exponent
        if rule == "topk":
            order = [i for i in q.argsort(descending=True).tolist() if valid[i]][:topk]
            positive = [i for i in order if q[i] > 0]
        else:
            order, start = [], 0
            for level in predicted.anchors:
                ids = [i for i in range(start, start + len(level)) if valid[i]]
                distance = {i: (centers[i] - (target[:2] + target[2:]) / 2).norm() for i in ids}
                order += sorted(ids, key=distance.get)[:topk]
                start += len(level)
            limit = q[order].mean() + q[order].std()
            positive = [i for i in order if q[i] >= limit]
        for i in positive:
            sides = torch.cat([centers[i] - target[:2], target[2:] - centers[i]])
            if sides.min() > 0.01 and q[i] > best[i]:
                result[i], best[i] = g, q[i].item()
    return torch.tensor(result)


def random_case(seed):
    """Three images, the second with batch padding, the last without boxes."""
    rng = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    levels, flat = grid(160, 192, (8, 16, 32)), torch.cat(grid(160, 192, (8, 16, 32)))
    valid = torch.ones(3, len(flat), dtype=torch.bool)
    valid[1] = (flat.view(-1, 2, 2).mean(1) < torch.tensor([128.0, 96.0])).all(1)
    moved = flat + 0.3 * (flat[:, 2:] - flat[:, :2]).repeat(1, 2) * noise(3, *flat.shape)
    boxes = torch.cat([torch.minimum(*moved.split(2, -1)), torch.maximum(*moved.split(2, -1))], -1)
    logits = noise(3, len(flat), 4) - 2
    low = torch.rand(11, 2, generator=rng, dtype=torch.float64) * 100
    gt = torch.cat([low, low + 10 + 20 * noise(11, 2).abs()], 1)
    images, classes = torch.tensor([0] * 7 + [1] * 4), torch.randint(4, (11,), generator=rng)
    predicted = Predictions(levels, valid, logits, boxes, lambda deltas, anchors: deltas)
    return predicted, Objects(gt, classes, images)


@pytest.mark.parametrize("rule", ["atss", "topk"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_reference(seed, rule, monkeypatch):
    from d2kd.detectors import quality_assigner

    monkeypatch.setattr(quality_assigner, "_ELEMENTS", 2000)  # several chunks of boxes
    predicted, objects = random_case(seed)
    exponents = (0.8, 0.5)
    found = quality_assign(predicted, objects, exponents, 5, rule)
    for exponent, match in zip(exponents, found, strict=True):
        for image in range(3):
            mine = objects.images == image
            args = objects.boxes[mine], objects.classes[mine], exponent, rule, 5
            expected, start = reference(predicted, image, *args), 7 * image
            assert torch.equal(match[image], torch.where(expected < 0, 11, expected + start))
        assert int((match < 11).sum()) > 5 and bool((match[~predicted.valid] == 11).all())
    assert not torch.equal(*found)


@pytest.mark.parametrize("rule", ["atss", "topk"])
def test_order_of_boxes_only_renames(rule):
    predicted, objects = random_case(9)
    order = torch.cat([torch.arange(7).flip(0), torch.arange(7, 11).flip(0)])
    other = Objects(*(x[order] for x in objects))
    back = torch.cat([order, torch.tensor([11])])
    for a, b in zip(
        quality_assign(predicted, objects, (0.8, 0.5), rule=rule),
        quality_assign(predicted, other, (0.8, 0.5), rule=rule),
        strict=True,
    ):
        assert torch.equal(back[b], a)


@pytest.mark.parametrize("rule", ["atss", "topk"])
def test_no_boxes_and_exponents_at_the_ends(rule):
    predicted, objects = random_case(3)
    none = Objects(*(x[:0] for x in objects))
    assert all(bool((x == 0).all()) for x in quality_assign(predicted, none, (0.8,), rule=rule))
    for match in quality_assign(predicted, objects, (0.0, 1.0), rule=rule):
        assert bool((match[~predicted.valid] == 11).all()) and int((match < 11).sum()) > 0


@pytest.mark.parametrize("rule", ["atss", "topk"])
def test_half_precision(rule):
    """Powers of small probabilities are taken in float32."""
    predicted, objects = random_case(5)
    half = predicted._replace(logits=(predicted.logits - 30).half())
    full = half._replace(logits=half.logits.float())
    for a, b in zip(*(quality_assign(x, objects, (0.8, 0.5), rule=rule) for x in (half, full)),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b) and int((a < 11).sum()) > 5
