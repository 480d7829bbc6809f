"""Which segmentations a mask detector can learn from."""

import math
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

# pycocotools draws outlines in memory that it does not check: longer ones end the process.
_FARTHEST = 1e6  # px from the corner of the image
_LONGEST = 1e7  # px of all edges together, at most


def mask_kind(segmentation: Any, size: tuple[int, int]) -> str:
    """What kind of mask it is: "polygon", "rle", or "" if no mask can be read.

    Args:
        segmentation: of an annotation.
        size: width and height of its image, px.
    """
    if isinstance(segmentation, list):
        return "polygon" if any(map(_is_polygon, segmentation)) else ""
    return "rle" if isinstance(segmentation, dict) and _is_rle(segmentation, size) else ""


def readable(segmentation: Any) -> Any:
    """A segmentation that has a `mask_kind` as Detectron2 reads it: polygons, or compressed RLE."""
    if isinstance(segmentation, list):
        return [polygon for polygon in segmentation if _is_polygon(polygon)]
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def _is_polygon(points: Any) -> bool:
    """Whether it is x, y, x, y ... of three points or more, px."""
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return False
    if not set(map(type, points)) <= {int, float}:
        return False
    low, high = min(points), max(points)
    if not _FARTHEST > high >= low > -_FARTHEST or math.isnan(sum(points)):
        return False
    return len(points) / 2 * (high - low) < _LONGEST or _length(points) < _LONGEST


def _length(points: list[float]) -> float:
    """Of all edges together, px, each along its longer axis, as pycocotools draws it."""
    corners = np.array(points, np.float64).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum())


def _is_rle(rle: dict[str, Any], size: tuple[int, int]) -> bool:
    counts = rle.get("counts")
    if rle.get("size") != [size[1], size[0]]:
        return False
    runs = counts if isinstance(counts, list) else _runs(counts) if isinstance(counts, str) else []
    whole = set(map(type, runs)) == {int}
    return whole and min(runs) >= 0 and sum(runs) == size[0] * size[1]


def _runs(counts: str) -> list[int]:
    """Run lengths of COCO's compressed RLE: 5 bits a character, differences from the third on."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # the sign
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return [] if shift else runs
