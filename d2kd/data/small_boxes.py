"""Boxes that are too small for a detector at the size that its images are resized to."""

import logging
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n
from numpy.typing import NDArray

from ..errors import class_count_key

_SAID_FROM = 0.1  # share of the boxes
_MOST = 5000  # images
_STEP = 32  # px


class SmallBoxes(NamedTuple):
    """How many boxes are small.

    Attributes:
        share: of the boxes whose shorter side is below the stride, 0 to 1.
        total: of the boxes that were looked at.
        size: of the images' shorter side, px, at which 90 % of the boxes would be larger.
    """

    share: float
    total: int
    size: int

    def __str__(self) -> str:
        return f"{self.share:.0%} of {self.total:,} boxes"


def small_boxes(
    records: Sequence[dict[str, Any]], size: float, longest: float, stride: float
) -> SmallBoxes:
    """Compare boxes with a stride.

    Args:
        records: in Detectron2's format; of more than 5,000, some evenly chosen ones are read.
        size: of the shorter side of resized images, px.
        longest: that the longer side may become, px.
        stride: px of the resized image.
    """
    chosen = records[:: math.ceil(len(records) / _MOST) or 1]
    sides = np.fromiter(chain.from_iterable(_sides(r, size, longest) for r in chosen), np.float64)
    if not sides.size:
        return SmallBoxes(0.0, 0, 0)
    wanted = float(np.quantile(size * stride / sides, 0.9))
    return SmallBoxes(float((sides < stride).mean()), sides.size, _STEP * math.ceil(wanted / _STEP))


def _sides(record: dict[str, Any], size: float, longest: float) -> NDArray[np.float64]:
    """The shorter sides of an image's boxes, px of the resized image."""
    image = record.get("width", 0), record.get("height", 0)
    modes = {x["bbox_mode"] for x in record.get("annotations", ())}
    if not min(image) or len(modes) != 1 or not modes < {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
        return np.empty(0)
    boxes = np.array([x["bbox"] for x in record["annotations"]], np.float64)
    if modes == {BoxMode.XYXY_ABS}:
        boxes[:, 2:] -= boxes[:, :2]
    scale = min(size / min(image), longest / max(image))
    return np.maximum(boxes[:, 2:].min(axis=1) * scale, 1e-3)


def say_small_boxes(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> None:
    """Warn, once, if many training boxes are smaller than the finest stride of the detector."""
    stride = _finest_stride(cfg)
    size, longest = max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
    found = small_boxes(records, size, longest, stride)
    if found.share >= _SAID_FROM:
        text = (
            f"{found} in DATASETS.TRAIN have a side below {stride} px, the finest stride of the "
            f"detector, at INPUT.MIN_SIZE_TRAIN {size} (MAX_SIZE_TRAIN {longest}), so maybe no "
            f"anchor or location that learns them; at {found.size} px 90 % would be larger: "
            + advice(found.size, longest / size)
        )
        log_first_n(logging.WARNING, text, key="message", name=__name__)


def advice(size: int, ratio: float) -> str:
    """What to type for images of another size; `ratio` of the longer side to the shorter one."""
    return " ".join(
        f"INPUT.MIN_SIZE_{kind} {given} INPUT.MAX_SIZE_{kind} {math.ceil(size * ratio)}"
        for kind, given in (("TRAIN", f'"({size},)"'), ("TEST", size))
    )


def _finest_stride(cfg: CfgNode) -> int:
    """Px, by the name of the first level ("p3", "res4"); 0 if that does not tell."""
    detector = cfg.MODEL.META_ARCHITECTURE
    detector = cfg.DISTILL.STUDENT if detector in ("Distiller", "TokenLearner") else detector
    levels = cfg.MODEL.get(class_count_key(detector).split(".")[1], {}).get("IN_FEATURES") or [""]
    digit = levels[0][-1:]
    return 2 ** int(digit) if digit.isdecimal() else 0
