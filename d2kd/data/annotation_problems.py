"""What is wrong with the annotations of a data set."""

from itertools import compress
from numbers import Real
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from .boxes import TOLERANCE
from .catalog import are_numbers, is_box
from .listing import listed, repeated


def annotation_problems(coco: dict[str, Any]) -> list[str]:
    """Ids that are used twice or point nowhere, classes and images without objects, and boxes.

    Args:
        coco: see `read_coco`.
    """
    images, categories, annotations = (coco[x] for x in ("images", "categories", "annotations"))
    known, names = {x["id"] for x in images}, {x["id"]: x["name"] for x in categories}
    kept = [a for a in annotations if a["image_id"] in known]
    problems = _id_problems(annotations, known, set(names))
    problems += listed(repeated(x["id"] for x in categories), "class ids are used twice")
    problems += listed(repeated(x["name"] for x in categories), "class names are used twice")
    used = {a["category_id"] for a in kept}
    problems += listed((n for i, n in names.items() if i not in used), "classes have no object")
    with_objects = {a["image_id"] for a in kept}
    empty = [x["file_name"] for x in images if x["id"] not in with_objects]
    if kept:
        problems += listed(empty, "images have no object, and training leaves them out")
    return problems + _box_problems(kept, images)


def _id_problems(
    annotations: list[dict[str, Any]], images: set[Any], categories: set[Any]
) -> list[str]:
    ids = [a.get("id") for a in annotations]
    right = [isinstance(i, str | Real) for i in ids]
    problems = listed(repeated(compress(ids, right)), "annotation ids are used twice")
    nameless = [place for place, good in enumerate(right) if not good]
    problems += listed(nameless, "annotations have no id, at places")
    lost = [a.get("id") for a in annotations if a["image_id"] not in images]
    problems += listed(lost, "annotations are of images that are not listed, ids")
    lost = [a.get("id") for a in annotations if a["category_id"] not in categories]
    return problems + listed(lost, "annotations are of classes that are not listed, ids")


def _box_problems(annotations: list[dict], images: list[dict]) -> list[str]:
    sized = {x["id"]: _size(x) for x in images}
    sizeless = [x["file_name"] for x in images if not _size(x)]
    problems = listed(sizeless, "images have no width and height above 0")
    right = [is_box(a.get("bbox"), BoxMode.XYWH_ABS) for a in annotations]
    wrong = compress((a.get("id") for a in annotations), (not good for good in right))
    problems += listed(wrong, "boxes are not four numbers, ids")
    kept = list(compress(annotations, right))
    boxes = np.array([a["bbox"] for a in kept], dtype=float).reshape(-1, 4)
    limits = np.array([sized[a["image_id"]] or (np.inf, np.inf) for a in kept]).reshape(-1, 2)
    ids = np.array([str(a.get("id")) for a in kept])
    kinds = _box_masks(boxes, limits)
    return problems + [x for what, mask in kinds.items() for x in listed(ids[mask], what)]


def _box_masks(boxes: np.ndarray, limits: np.ndarray) -> dict[str, np.ndarray]:
    """Masks (N) of XYWH boxes (N, 4) in images of widths and heights (N, 2), px."""
    finite = np.isfinite(boxes).all(1)
    flat = finite & (boxes[:, 2:] <= 0).any(1)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    beside = (corners[:, :2] >= limits).any(1) | (corners[:, 2:] <= 0).any(1)
    across = (corners[:, :2] < -TOLERANCE).any(1) | (corners[:, 2:] > limits + TOLERANCE).any(1)
    solid = finite & ~flat
    return {
        "boxes have NaN values, ids": ~finite,
        "boxes have no width or height, ids": flat,
        "boxes lie outside of their image and will be dropped, ids": solid & beside,
        "boxes reach outside of their image and will be clipped, ids": solid & across & ~beside,
    }


def _size(image: dict[str, Any]) -> tuple[float, float] | None:
    size = image.get("width", 0), image.get("height", 0)
    return size if are_numbers(size) and min(size) > 0 else None
