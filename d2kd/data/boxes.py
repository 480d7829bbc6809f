"""Clip or drop the boxes a detector cannot learn from."""

import logging
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)

# Annotation files round: a box reaching this far (px) outside its image is taken as it is.
TOLERANCE = 0.01


def clean_boxes(dataset_dicts: list[dict[str, Any]], name: str = "data set") -> list[dict]:
    """Clip boxes to their image and drop those without area or with NaN or infinite corners.

    Crowd annotations are treated like the others; images without boxes, segmentations and boxes
    in modes other than ``XYXY_ABS`` and ``XYWH_ABS`` are left as they are.

    Args:
        dataset_dicts: records in Detectron2's format. They are not modified: records and
            annotations that need a change are copied.
        name: of the data set, for the one warning that counts the changes.

    Returns:
        As many records in the same order, each box in the mode it came in (image px).

    Raises:
        ValueError: the data set has boxes, and none is left.
    """
    cleaned, total, clipped, dropped = [], 0, 0, 0
    for record in dataset_dicts:
        size = record.get("width", math.inf), record.get("height", math.inf)
        before = record.get("annotations", [])
        after = [_clean_annotation(annotation, *size) for annotation in before]
        changed = sum(new is not old for new, old in zip(after, before, strict=True))
        lost = after.count(None)
        total, clipped, dropped = total + len(before), clipped + changed - lost, dropped + lost
        if changed:
            record = {**record, "annotations": [new for new in after if new is not None]}
        cleaned.append(record)
    if clipped or dropped:
        logger.warning(
            f"{name}: {clipped:,} of {total:,} boxes reached outside their image and were clipped, "
            f"{dropped:,} had no area in it and were dropped."
        )
    if total and dropped == total:
        raise ValueError(
            f"{name}: none of the {total:,} boxes has an area inside its image. Check the box "
            "format (COCO json holds x, y, width, height in px) and the images' width and height."
        )
    return cleaned


def _clean_annotation(annotation: dict[str, Any], width: float, height: float) -> dict | None:
    """Return the annotation itself, a copy with its box clipped, or None if no area is left."""
    mode = annotation["bbox_mode"]
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        return annotation
    x0, y0, x1, y1 = (float(value) for value in annotation["bbox"])
    if mode == BoxMode.XYWH_ABS:
        x1, y1 = x0 + x1, y0 + y1
    if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
        return None
    left, top, right, bottom = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    if right <= left or bottom <= top:
        return None
    if max(left - x0, top - y0, x1 - right, y1 - bottom) <= TOLERANCE:
        return annotation
    if mode == BoxMode.XYWH_ABS:
        right, bottom = right - left, bottom - top
    return {**annotation, "bbox": [left, top, right, bottom]}


def is_box(box: Any, mode: BoxMode) -> bool:
    """Whether a box has as many numbers as its mode needs; NaN is a number."""
    length = 5 if mode == BoxMode.XYWHA_ABS else 4
    return isinstance(box, Sequence | np.ndarray) and len(box) == length and are_numbers(box)


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether all values are numbers below 1e15 in magnitude, or NaN."""
    return all(isinstance(x, Real) and ((x < 1e15 and not x <= -1e15) or x != x) for x in values)
