"""Outlines and run lengths that pycocotools would crash on are no masks."""

import numpy as np
import pytest
from detectron2.structures import PolygonMasks
from pycocotools import mask as mask_utils

from d2kd.data.masks import mask_kind, readable

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "points",
    [[0, 0, 1e9, 0, 1e9, 1e9], [-1e9, 0, 5, 5, 3, 1], [0, 0, NAN, 0, 5, 5], [NAN, 0, 5, 0, 5, 5],
     [0, 0, INF, 0, -INF, 5], [0, 0, 10**400, 0.5, 5, 5], [0, 0, -(10**400), 10**400, 5, 0.5],
     [0, 0, 9e5, 9e5] * 5000, [0, 0, 1, 1], [0, 0, 1, 1, 2], [True, 0, 1, 1, 2, 0]],
    ids=lambda points: str(points)[:30],
)  # fmt: skip
def test_outlines_that_cannot_be_drawn(points):
    assert mask_kind([points], (64, 64)) == ""
    whole = [1, 1, 9.5, 1, 9, 9]
    assert mask_kind([points, whole], (64, 64)) == "polygon"
    assert readable([points, whole]) == [whole]


def test_a_fine_outline_in_a_large_image():
    angles = np.linspace(0, 2 * np.pi, 10_000, endpoint=False)
    circle = 5000 + 4999 * np.stack([np.cos(angles), np.sin(angles)], 1)
    assert mask_kind([circle.ravel().tolist()], (10_000, 10_000)) == "polygon"


@pytest.mark.parametrize("points", [[-50, -50, 500, 0, 60, 900], [0, 0, 9e5, 0, 5, 9e5]], ids=str)
def test_the_longest_outlines_that_are_taken_can_be_drawn(points):
    assert mask_kind([points], (64, 64)) == "polygon"
    assert mask_utils.decode(mask_utils.frPyObjects([points], 64, 64)).shape == (64, 64, 1)
    assert len(PolygonMasks([[points]])) == 1


@pytest.mark.parametrize("counts", ["PPPYo" * 200, "", [64 * 64 + 1], [-1, 64 * 64 + 1], [10**30]])
def test_run_lengths_of_another_size(counts):
    assert mask_kind({"size": [64, 64], "counts": counts}, (64, 64)) == ""
    assert mask_kind({"size": [0, 0], "counts": "04"}, (64, 64)) == ""
