"""ATSS assignment: numbers worked out by hand, and a per-box reference without vectorization."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.detectors.assigner import atss_assign


def grid(height, width, strides=(8, 16, 32, 64, 128)):
    """Square anchors of 8 strides centered at multiples of the stride."""
    levels = []
    for s in strides:
        y, x = torch.meshgrid(
            torch.arange(-(-height // s)) * s, torch.arange(-(-width // s)) * s, indexing="ij"
        )
        center = torch.stack([x, y, x, y], -1).view(-1, 4).double()
        levels.append(center + torch.tensor([-4.0, -4, 4, 4], dtype=torch.float64) * s)
    return levels


def assign(levels, boxes, valid=None, topk=9):
    total = sum(len(x) for x in levels)
    valid = torch.ones(len(boxes), total, dtype=torch.bool) if valid is None else valid
    return atss_assign(levels, valid, boxes, topk)


def box(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 4)


def pairwise(a, b):
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = (high - low).clamp(min=0).prod(-1)
    area = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return inner / (area[0][:, None] + area[1] - inner)


def reference(levels, gt, valid, topk):
    """One image, one box after the other."""
    anchors, result, best = torch.cat(levels), [-1] * len(valid), [-1.0] * len(valid)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    for g, target in enumerate(gt):
        candidates, start = [], 0
        for level in levels:
            ids = [i for i in range(start, start + len(level)) if valid[i]]
            distance = [(centers[i] - (target[:2] + target[2:]) / 2).norm().item() for i in ids]
            order = sorted(range(len(ids)), key=lambda k: distance[k])[:topk]
            candidates += [ids[k] for k in order]
            start += len(level)
        iou = pairwise(anchors[candidates], target[None])[:, 0]
        threshold = iou.mean() + iou.std()
        for i, value in zip(candidates, iou.tolist(), strict=True):
            sides = torch.cat([centers[i] - target[:2], target[2:] - centers[i]])
            if value >= threshold and sides.min() > 0.01 and value > best[i]:
                result[i], best[i] = g, value
    return torch.tensor(result)


def test_one_box_by_hand():
    levels, gt = grid(128, 128), box(19, 30, 82, 76)
    match = assign(levels, [gt])[0]
    centers = torch.cat(levels)[:, :2] + torch.cat(levels)[:, 2:]
    positive = (match == 0).nonzero()[:, 0]
    found = {tuple(int(v) for v in centers[i] / 2) for i in positive}
    assert found == {(48, 40), (40, 48), (48, 48), (56, 48), (40, 56), (48, 56), (56, 56),
                     (48, 64), (56, 64)}  # fmt: skip
    assert positive.max() < len(levels[0]) and len(positive) == 9
    middle = (centers == 96).all(1).nonzero()[0, 0]
    iou = pairwise(torch.cat(levels)[middle : middle + 1], gt)
    assert_close(iou.item(), 0.670010, atol=1e-6, rtol=0)


def test_threshold_by_hand():
    from d2kd.detectors import assigner

    levels, gt = grid(128, 128), box(19, 30, 82, 76)
    valid = torch.ones(1, sum(len(x) for x in levels), dtype=torch.bool)
    index, near = assigner.nearest_anchors(levels, valid, gt, torch.zeros(1, dtype=torch.long), 9)
    iou = assigner.paired_iou(torch.cat(levels)[index], gt[:, None])
    assert int(near.sum()) == 32
    assert_close(iou.mean().item(), 0.232998, atol=1e-6, rtol=0)
    assert_close(iou.std().item(), 0.244009, atol=1e-6, rtol=0)
    assert_close(assigner.mean_plus_deviation(iou, near).item(), 0.477007, atol=1e-6, rtol=0)


def test_two_boxes_by_hand():
    levels = grid(256, 256)
    match = assign(levels, [box(41, 61, 166, 158, 99, 103, 202, 221)])[0]
    per_level = match.split([len(x) for x in levels])
    assert [int((x < 2).sum()) for x in per_level] == [0, 18, 0, 0, 0]
    assert [int((match == g).sum()) for g in (0, 1)] == [9, 9]


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_reference(seed):
    rng = torch.Generator().manual_seed(seed)
    levels = grid(160, 192, (8, 16, 32))
    total = sum(len(x) for x in levels)
    valid = torch.ones(3, total, dtype=torch.bool)
    corner = torch.cat(levels).view(-1, 2, 2).mean(1)
    valid[1] = (corner < torch.tensor([128.0, 96.0])).all(1)
    boxes = []
    for count, (height, width) in zip((6, 3, 0), ((160, 192), (90, 120), (160, 192)), strict=True):
        limits = torch.tensor([width, height], dtype=torch.float64)
        low = torch.rand(count, 2, generator=rng, dtype=torch.float64) * limits * 0.7
        high = low + 3 + torch.rand(count, 2, generator=rng, dtype=torch.float64) * limits * 0.3
        boxes.append(torch.cat([low, high], 1))
    match, start = assign(levels, boxes, valid, topk=5), 0
    for image, gt in enumerate(boxes):
        expected = reference(levels, gt, valid[image], 5)
        expected = torch.where(expected < 0, 9, expected + start)
        assert torch.equal(match[image], expected)
        start += len(gt)
    assert bool((match[1][~valid[1]] == 9).all())
    assert int((match < 9).sum()) > 0


def test_equal_overlap_goes_to_the_first_box():
    gt = box(19, 30, 82, 76)
    twice = assign(grid(128, 128), [torch.cat([gt, gt])])[0]
    assert int((twice == 0).sum()) == 9 and int((twice == 1).sum()) == 0


def test_order_of_boxes_only_renames():
    gt = box(41, 61, 166, 158, 99, 103, 202, 221, 5, 5, 60, 80)
    order = torch.tensor([2, 0, 1])
    a, b = assign(grid(256, 256), [gt])[0], assign(grid(256, 256), [gt[order]])[0]
    back = torch.cat([order, torch.tensor([3])])
    assert torch.equal(back[b], a)


def test_no_boxes_and_boxes_too_small_for_a_center():
    levels = grid(128, 128)
    assert bool((assign(levels, [box()]) == 0).all())
    tiny = assign(levels, [box(3, 3, 6, 6), box()])
    assert bool((tiny == 1).all())
