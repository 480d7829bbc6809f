"""Stored detections that training images bring with them, through all that is done to these."""

import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.transforms import TransformList

from ..errors import ConfigError
from .detections import KEY, id_text, offline_detections, offline_file

logger = logging.getLogger(__name__)


def with_detections(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with the detections of their images, lists of `Detections`' rows, as "set".

    An image is known by its id, or by the name of its file. An image without detections is one in
    which nothing was found. Without a file to read, records stay as they are.

    Raises:
        ConfigError: see `read_detections`; none of the image ids is one of the data's, or one is
            that of two images.
    """
    if not (path := offline_file(cfg)):
        return list(records)
    images = offline_detections(cfg).images
    nothing = np.zeros((0, 6), np.float32)
    found: list[dict[str, Any]] = []
    met: dict[str, str] = {}
    for record in records:
        names = id_text(record.get("image_id", "")), os.path.basename(record["file_name"])
        key = next((x for x in names if x in images), "")
        file = record["file_name"]
        other = met.setdefault(key, file) if key else file
        if other != file and os.path.realpath(other) != os.path.realpath(file):
            raise ConfigError(
                f"{KEY}: {path} has detections of {key!r}, which is {other} and also {file}: give "
                "each training image an id of its own, in that file too."
            )
        size = record.get("width", math.inf), record.get("height", math.inf)
        found.append({**record, "set": _inside(images.get(key, nothing), size).tolist()})
    ids = (str(r.get("image_id", r["file_name"])) for r in records)
    ours, theirs = (", ".join(list(x)[:3]) for x in (ids, images))
    if not met:
        raise ConfigError(
            f"{KEY}: none of the {len(images):,} image ids of {path} ({theirs}, ...) is one of the "
            f"training data's ({ours}, ...), or the name of one of its files."
        )
    empty = sum(not len(x["set"]) for x in found)
    logger.log(
        logging.WARNING if len(met) < len(images) or empty else logging.INFO,
        "%s: %s has boxes of %s of the %s training images; in the others nothing was found. %s of "
        "its image ids are not among them.", KEY, path, f"{len(found) - empty:,}",
        f"{len(found):,}", f"{len(images) - len(met):,}",
    )  # fmt: skip
    return found


def _inside(rows: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Rows whose boxes, XYXY px, are clipped to an image's width and height and have area there."""
    boxes = np.clip(rows[:, :4], 0, [*size, *size]).astype(np.float32)
    rows = np.concatenate([boxes, rows[:, 4:]], 1)
    return rows[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def carried(
    found: Sequence[Sequence[float]], transforms: TransformList, size: tuple[int, int]
) -> np.ndarray:
    """The rows of an augmented image, whose boxes are flipped, resized and cropped with it.

    They are clipped as labels are; those of which less than half is left are dropped.

    Args:
        found: n rows of 6 numbers, of the image as it is read.
        transforms: what has been done to the image.
        size: height and width of the augmented image, px.
    """
    rows = np.array(found, np.float32).reshape(-1, 6)
    boxes = transforms.apply_box(rows[:, :4]) if len(rows) else rows[:, :4]
    inside = np.clip(boxes, 0, [*size[::-1], *size[::-1]])
    before, left = ((x[:, 2:] - x[:, :2]).clip(min=0).prod(1) for x in (boxes, inside))
    kept = (left > 0) & (left >= before / 2)
    return np.concatenate([inside, rows[:, 4:]], 1)[kept].astype(np.float32)
