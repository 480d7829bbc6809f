"""The valuable localization region: counts and weights worked out by hand."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.heads.region import valuable_region
from tests.detectors.test_assigner import assign, box, grid


def region(size, gt, overlap):
    levels = grid(size, size)
    valid = torch.ones(1, sum(len(x) for x in levels), dtype=torch.bool)
    weights = valuable_region(levels, valid, [gt], overlap=overlap)[0]
    return weights, weights.split([len(x) for x in levels])


@pytest.mark.parametrize(("overlap", "counts", "sums"), [
    ("iof", [63, 22, 0, 0, 0], [16.809999, 3.871643]),
    ("diou", [49, 22, 0, 0, 0], [16.206944, 3.871643]),
])  # fmt: skip
def test_one_box(overlap, counts, sums):
    _, levels = region(128, box(19, 30, 82, 76), overlap)
    assert [int((x > 0).sum()) for x in levels] == counts
    for weights, expected in zip(levels[:2], sums, strict=True):
        assert_close(weights.sum().item(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("overlap", "counts", "both"), [
    ("iof", [254, 115, 35], 13), ("diou", [208, 86, 35], 8),
])  # fmt: skip
def test_two_boxes(overlap, counts, both):
    gt = box(41, 61, 166, 158, 99, 103, 202, 221)
    weights, levels = region(256, gt, overlap)
    assert [int((x > 0).sum()) for x in levels[:3]] == counts
    positive = assign(grid(256, 256), [gt])[0] < 2
    assert int((positive & (weights > 0)).sum()) == both


def test_padding_and_images_without_boxes_have_no_region():
    levels = grid(128, 128)
    valid = torch.ones(2, sum(len(x) for x in levels), dtype=torch.bool)
    valid[1, ::2] = False
    gt = box(19, 30, 82, 76)
    weights = valuable_region(levels, valid, [box(), gt])
    assert not weights[0].any() and not weights[1, ::2].any() and bool(weights[1].any())
    with pytest.raises(ValueError, match="'diou' or 'iof'"):
        valuable_region(levels, valid, [box(), gt], overlap="giou")
