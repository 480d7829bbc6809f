"""Which boxes of a data set have an area in their image, and what is wrong with the others."""

from collections.abc import Callable, Sequence
from itertools import chain, compress
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from .boxes import TOLERANCE, is_box
from .findings import Finding

Named = Callable[[NDArray[np.bool_]], list[Any]]
"""From a mask (N,) of annotations to their ids."""
_LIKE_CORNERS = 4  # boxes at least, before it is said that they are corners
_FAR = 1.1  # times the width or height of the image: boxes that are drawn carelessly end before it


def check_boxes(
    boxes: Sequence[Any], limits: NDArray[np.float64], named: Named, used: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], list[Finding]]:
    """Which boxes are kept.

    Args:
        boxes: N values of "bbox": x, y, width, height in px, or anything else.
        limits: (N, 2), widths and heights of their images, px; inf where unknown.
        named: gives the ids of chosen boxes, to be shown.
        used: (N,) whether the box counts at all.

    Returns:
        (N,) mask of the boxes that are kept, and what was found.
    """
    right = used & _are_boxes(boxes)
    values = np.full((len(boxes), 4), np.nan)
    flat = chain.from_iterable(compress(boxes, right))
    values[right] = np.fromiter(flat, np.float64).reshape(-1, 4)
    kinds = _kinds(values, limits)
    kept = right & ~np.any([kinds[k] for k in _DROPPED], axis=0)
    findings = [Finding("boxes are not four numbers, ids", named(used & ~right), "stops",
                        "write x, y, width, height in px")]  # fmt: skip
    findings += [Finding(f"boxes {what}, ids", named(right & kinds[kind]), "changes")
                 for kind, what in _DROPPED.items()]  # fmt: skip
    findings += _wholly_wrong(values, limits, named, right, kept)
    what = "boxes reach outside of their image and will be clipped, ids"
    return kept, [*findings, Finding(what, named(kept & kinds["across"]))]


_DROPPED = {
    "nan": "have NaN values and are left out",
    "flat": "have no width or height and are left out",
    "beside": "lie outside of their image and are left out",
}


def _are_boxes(boxes: Sequence[Any]) -> NDArray[np.bool_]:
    """(N,) `is_box`; the whole list at once where all are alike."""
    if set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}:
        flat = list(chain.from_iterable(boxes))
        if set(map(type, flat)) <= {int, float} and all(-1e15 < x < 1e15 for x in flat):
            return np.ones(len(boxes), bool)
    return np.array([is_box(box, BoxMode.XYWH_ABS) for box in boxes], bool)


def _kinds(boxes: NDArray[np.float64], limits: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Masks (N,) of XYWH boxes (N, 4) in images of widths and heights (N, 2), px."""
    finite: NDArray[np.bool_] = np.all(np.isfinite(boxes), axis=1)
    flat = finite & (boxes[:, 2:] <= 0).any(1)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    beside = (corners[:, :2] >= limits).any(1) | (corners[:, 2:] <= 0).any(1)
    across = (corners[:, :2] < -TOLERANCE).any(1) | (corners[:, 2:] > limits + TOLERANCE).any(1)
    solid = finite & ~flat
    return {"nan": ~finite, "flat": flat, "beside": solid & beside, "across": solid & across}


def _wholly_wrong(
    boxes: NDArray[np.float64],
    limits: NDArray[np.float64],
    named: Named,
    right: NDArray[np.bool_],
    kept: NDArray[np.bool_],
) -> list[Finding]:
    """What says that all boxes are written in another way."""
    advice = "write x, y, width, height in px"
    if right.any() and not kept.any():
        what = "boxes, none of them with an area inside its image, ids"
        return [Finding(what, named(right), "stops", f"{advice}, and the images' sizes")]
    boxes, limits = boxes[kept], limits[kept]
    if len(boxes) and ((boxes <= 1.01).all() or (boxes[:, 2:] < 1).all()):
        what = "boxes, and all are below 1 px: are they in parts of the image? ids"
        return [Finding(what, named(kept), "stops", advice)]
    outside = np.any(boxes[:, :2] + boxes[:, 2:] > _FAR * limits, axis=1)
    corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= limits + TOLERANCE).all(1)
    if len(boxes) >= _LIKE_CORNERS and corners.all() and outside.mean() > 0.5:
        what = "boxes reach far outside of their image as x, y, width, height, none as corners, ids"
        return [
            Finding(
                what, list(compress(named(kept), outside)), "stops", f"{advice}, not x0, y0, x1, y1"
            )
        ]
    return []
