"""Weights of cells by the objects of an image: hand cases, borders, many boxes."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses.boxes_on_cells import (
    background_weights,
    cells_of_boxes,
    clip_to_image,
    foreground_weights,
    has_area,
)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float64).view(-1, 4)


def painted(found, stride, size):
    """The definition, box by box."""
    weights = torch.zeros(len(found), *size, dtype=torch.float64)
    for image, of_image in zip(weights, found, strict=True):
        for box in of_image:
            x1, y1, x2, y2 = cells_of_boxes(box, stride).long().tolist()
            if has_area(box):
                part = image[y1 : y2 + 1, x1 : x2 + 1]
                part.clamp_(min=1 / ((y2 - y1 + 1) * (x2 - x1 + 1)))
    return weights


def test_the_smaller_of_two_boxes_counts():
    """The larger one ends at column and row 4, outside of the map: 5 x 5 cells, of which 16."""
    found = foreground_weights([boxes((9, 9, 15, 23), (1, 1, 31, 31))], 8, (4, 4))
    expected = torch.full((1, 4, 4), 0.04, dtype=torch.float64)
    expected[0, 1:, 1:3] = 1 / 6
    assert_close(found, expected)
    assert not background_weights(found).any()


def test_a_box_inside_a_cell_covers_four():
    found = foreground_weights([boxes((9, 9, 15, 15))], 8, (4, 4))
    expected = torch.zeros(1, 4, 4, dtype=torch.float64)
    expected[0, 1:3, 1:3] = 0.25
    assert_close(found, expected)
    assert_close(background_weights(found), (expected == 0).double() / 12)


def test_images_without_boxes_are_background():
    for found in ([boxes(), boxes()], [boxes(), boxes((0, 0, 4, 4))]):
        weights = foreground_weights(found, 8, (2, 3))
        assert not weights[0].any()
        assert_close(background_weights(weights)[0], torch.full((2, 3), 1 / 6).double())


def test_a_box_of_the_whole_image_leaves_no_background():
    found = foreground_weights([boxes((0, 0, 24, 16))], 8, (2, 3))
    assert_close(found, torch.full((1, 2, 3), 1 / 12).double())
    assert not background_weights(found).any()


@pytest.mark.parametrize("count", [0, 1, 5, 62, 63, 150])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (12, 9)])
def test_boxes_one_by_one(count, size):
    rng = torch.Generator().manual_seed(count)
    limits = torch.tensor([size[1] * 8.0, size[0] * 8.0]).double()
    corners = torch.rand(2, count, 2, 2, generator=rng, dtype=torch.float64) * 1.4 - 0.2
    corners = (corners * limits).sort(2).values.flatten(2)
    found = [clip_to_image(x, (size[0] * 8, size[1] * 8)) for x in corners]
    found.append(found[0][: count // 2])
    assert_close(foreground_weights(found, 8, size), painted(found, 8, size))


def test_boxes_that_count_for_nothing():
    """Outside of the image, on its border, without width, turned round."""
    given = boxes((-9, -9, -1, -1), (32, 0, 40, 8), (5, 5, 5, 20), (0, 33, 9, 60), (9, 9, 3, 3))
    clipped = clip_to_image(given, (32, 32))
    assert not has_area(clipped).any()
    assert not foreground_weights([clipped], 8, (4, 4)).any()


def test_a_negative_corner_is_cut():
    """As released, column -1 would leave no object at all."""
    clipped = clip_to_image(boxes((-0.5, -7, 10, 99)), (16, 24))
    assert_close(clipped, boxes((0, 0, 10, 16)))
    found = foreground_weights([clipped], 8, (2, 3))
    assert_close(found, torch.full((1, 2, 3), 1 / 9).double())


def test_boxes_of_a_smaller_image_are_not_stretched():
    """Its lower right corner lies in cell 11 of a map of 16, not at the map's border."""
    clipped = clip_to_image(boxes((100, 100, 180, 180)), (180, 240))
    found = foreground_weights([clipped], 16, (16, 20))[0]
    rows, columns = found.nonzero().unbind(1)
    assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (6, 12)


@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64, 128])
def test_float32_divides_as_float64_does(stride):
    """A share of the width times the cells would make ceil(120 / 1216 * 152) 16, not 15."""
    x = torch.arange(0, 1400, 0.5)
    found = cells_of_boxes(torch.stack([x, x, x, x], 1), stride)
    assert_close(found.double(), cells_of_boxes(torch.stack([x, x, x, x], 1).double(), stride))


def test_many_boxes_take_the_memory_of_a_few_maps():
    """A map for each of 500 boxes would be 134 MB."""
    corners = torch.rand(500, 2, 2).sort(1).values.flatten(1) * torch.tensor([1344.0, 800] * 2)
    with torch.profiler.profile(profile_memory=True) as profile:
        foreground_weights([corners], 4, (200, 336))
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 30e6
