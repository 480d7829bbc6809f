"""RepPoints' assignments: numbers worked out by hand, and references without vectorization."""

import pytest
import torch

from d2kd.detectors.point_assigner import nearest_point_assign, overlap_assign
from tests.detectors.test_assigner import box, grid, pairwise

STRIDES = [8, 16, 32, 64, 128]


def nearest(boxes, size=(256, 256), valid=None):
    """Row of every cell, and (x, y, level) of the cell of each box."""
    levels = grid(*size)
    total = sum(map(len, levels))
    valid = torch.ones(len(boxes), total, dtype=torch.bool) if valid is None else valid
    match = nearest_point_assign(levels, valid, boxes, STRIDES, 4)
    level = torch.arange(5).repeat_interleave(torch.tensor([len(x) for x in levels]))
    corners = torch.cat(levels)
    center = (corners[:, :2] + corners[:, 2:]).long() // 2
    count = sum(map(len, boxes))
    found = {}
    for image, cell in (match < count).nonzero().tolist():
        found[int(match[image, cell])] = (*center[cell].tolist(), int(level[cell]))
    return match, found


def test_cells_and_levels_by_hand():
    boxes = box(10, 10, 42, 42, 100, 20, 164, 148, 200, 200, 220, 220, 0, 0, 250, 230)
    _, found = nearest([boxes])
    assert found == {0: (24, 24, 0), 1: (128, 80, 1), 2: (208, 208, 0), 3: (128, 128, 2)}


@pytest.mark.parametrize("second_first", [False, True])
def test_the_nearest_center_wins_a_point(second_first):
    boxes = box(10, 10, 42, 42, 12, 12, 40, 36)
    match, found = nearest([boxes.flip(0) if second_first else boxes])
    assert found == {1 - second_first: (24, 24, 0)} and int((match < 2).sum()) == 1


def test_equal_distances_go_to_the_first_box():
    _, found = nearest([box(8, 8, 40, 40, 8, 8, 40, 40)])
    assert list(found) == [0]


def test_padding_has_no_points():
    boxes = box(100, 100, 140, 140)
    levels = grid(256, 256)
    corners = torch.cat(levels)
    valid = ((corners[:, :2] + corners[:, 2:]) / 2 < 64).all(1)[None]
    _, found = nearest([boxes], valid=valid)
    assert found == {0: (56, 56, 0)}


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_reference(seed):
    rng = torch.Generator().manual_seed(seed)
    boxes = []
    for count in (12, 0, 5):
        low = torch.rand(count, 2, generator=rng, dtype=torch.float64) * 150
        high = low + 3 + torch.rand(count, 2, generator=rng, dtype=torch.float64) * 100
        boxes.append(torch.cat([low, high], 1))
    match, _ = nearest(boxes)
    levels, start = grid(256, 256), 0
    for image, gt in enumerate(boxes):
        assert torch.equal(match[image], point_reference(levels, gt, start, 17))
        start += len(gt)


def point_reference(levels, gt, start, total):
    """One box after the other, distances in units of the box's sides to all points of its level."""
    sizes = [len(x) for x in levels]
    match = torch.full((sum(sizes),), total)
    distance = torch.full((sum(sizes),), torch.inf, dtype=torch.float64)
    for row, target in enumerate(gt):
        sides = target[2:] - target[:2]
        level = min(max(int((sides / 4).log2().sum() / 2), 3), 7) - 3
        centers = (levels[level][:, :2] + levels[level][:, 2:]) / 2
        away = ((centers - (target[:2] + target[2:]) / 2) / sides).norm(dim=1)
        cell = sum(sizes[:level]) + int(away.argmin())
        if away.min() < distance[cell]:
            match[cell], distance[cell] = start + row, away.min()
    return match


PREDICTED = box(0, 0, 8, 8, 8, 0, 16, 8, 100, 100, 108, 108)


def overlap(gt, low_quality, predicted=PREDICTED, valid=None):
    valid = torch.ones(1, len(predicted), dtype=torch.bool) if valid is None else valid
    return overlap_assign(predicted[None], valid, [gt], low_quality=low_quality)[0].tolist()


@pytest.mark.parametrize(("gt", "official", "ours"), [
    (box(40, 40, 44, 44), [0, 0, 0], [1, 1, 1]),
    (box(0, 0, 8, 8, 40, 40, 44, 44), [1, 1, 1], [0, 2, 2]),
    (box(40, 40, 44, 44, 0, 0, 8, 8), [1, 0, 0], [1, 2, 2]),
    (box(), [0, 0, 0], [0, 0, 0]),
])  # fmt: skip
def test_a_box_that_nothing_overlaps(gt, official, ours):
    """mmdetection gives it every cell; rows are counted from 0, G is the background."""
    assert overlap(gt, "official") == official
    assert overlap(gt, "overlapping") == ours


def test_thresholds_and_the_box_of_low_overlap():
    predicted = box(0, 0, 8, 8, 0, 0, 8, 5, 0, 0, 8, 3.6, 0, 0, 8, 3, 50, 50, 58, 58)
    gt = box(0, 0, 8, 8, 50, 50, 58, 53)
    assert overlap(gt, "none", predicted) == [0, 0, -1, 2, 2]
    assert overlap(gt, "overlapping", predicted) == [0, 0, -1, 2, 1]
    invalid = torch.tensor([[True, False, True, True, False]])
    assert overlap(gt, "overlapping", predicted, invalid) == [0, 2, -1, 2, 2]


@pytest.mark.parametrize("low_quality", ["overlapping", "official", "none"])
@pytest.mark.parametrize("elements", [2**21, 500])
def test_overlap_equals_the_reference(monkeypatch, low_quality, elements):
    monkeypatch.setattr("d2kd.detectors.point_assigner._ELEMENTS", elements)
    rng = torch.Generator().manual_seed(0)

    def boxes(count):
        low = torch.rand(count, 2, generator=rng, dtype=torch.float64) * 60
        return torch.cat([low, low + 5 + 30 * torch.rand(count, 2, generator=rng).double()], 1)

    predicted = torch.stack([boxes(120) for _ in range(3)])
    valid = torch.rand(3, 120, generator=rng) < 0.8
    gt = [boxes(count) for count in (9, 0, 4)]
    gt[0][3] += 1000
    match, start = overlap_assign(predicted, valid, gt, low_quality=low_quality), 0
    for image in range(3):
        expected = overlap_reference(predicted[image], valid[image], gt[image], low_quality)
        assert match[image].tolist() == [x if x < 0 else 13 if x > 99 else x + start
                                         for x in expected]  # fmt: skip
        start += len(gt[image])


def overlap_reference(predicted, valid, gt, low_quality):
    """mmdetection's steps on the valid cells; 100 for background."""
    match = [100] * len(predicted)
    if not len(gt):
        return match
    iou = pairwise(gt, predicted)
    for cell in valid.nonzero()[:, 0].tolist():
        best, row = iou[:, cell].max(0)
        match[cell] = int(row) if best >= 0.5 else -1 if best >= 0.4 else 100
    for row in range(len(gt)) if low_quality != "none" else ():
        peak = iou[row, valid].max()
        if peak > 0 or low_quality == "official":
            for cell in (valid & (iou[row] == peak)).nonzero()[:, 0].tolist():
                match[cell] = row
    return match
