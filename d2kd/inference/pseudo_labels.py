"""Detections as a data set in COCO's json format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.structures import BoxMode

from ..errors import ConfigError
from ..file_io import read_json, write_atomically
from ..text import plain

_MARK = "pseudo-labels by d2kd predict"


class Labelled(NamedTuple):
    """What was found in an image.

    Attributes:
        name: of the file, below the folder that was searched.
        width, height: of the image as it is read, px.
        boxes: XYXY, px.
        classes: index of each box's class.
        scores: of each box, in [0, 1].
    """

    name: str
    width: int
    height: int
    boxes: list[list[float]]
    classes: list[int]
    scores: list[float]


def check_target(path: Path) -> None:
    """See that a file can be written without loss.

    Raises:
        ConfigError: it is a folder, or holds something else than pseudo-labels.
    """
    if path.is_dir():
        raise ConfigError(f"--coco {plain(path)} is a folder: name a file, such as labels.json.")
    if path.exists():
        try:
            data = read_json(path)
        except ConfigError:
            data = None
        info = data.get("info") if isinstance(data, dict) else None
        if not isinstance(info, dict) or info.get("description") != _MARK:
            raise ConfigError(
                f"--coco {plain(path)} exists and holds no pseudo-labels of d2kd predict: name "
                "another file, or move that one away."
            )


def to_coco(found: Sequence[Labelled], names: Sequence[str]) -> dict[str, Any]:
    """Detections with images, classes and boxes numbered from 1; boxes XYWH, px."""
    coco: dict[str, Any] = {
        "info": {"description": _MARK},
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
        "images": [],
        "annotations": [],
    }
    for image_id, (name, width, height, boxes, classes, scores) in enumerate(found, 1):
        coco["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        for xyxy, label, score in zip(boxes, classes, scores, strict=True):
            box = list(BoxMode.convert(xyxy, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS))
            coco["annotations"].append({
                "id": len(coco["annotations"]) + 1, "image_id": image_id, "bbox": box,
                "category_id": label + 1, "area": box[2] * box[3], "iscrowd": 0, "score": score,
            })  # fmt: skip
    return coco


def write_labels(path: Path, coco: dict[str, Any]) -> None:
    """Write what `to_coco` returned; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(coco)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
