"""Reading of stored detections: a teacher that is a file."""

import math
import os
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ..errors import ConfigError
from ..file_io import read_json
from .catalog import dataset_num_classes

KEY = "DISTILL.SetKD.OFFLINE"
_SHAPE = (
    "give COCO's results, a list of {image_id, category_id, bbox: [x, y, width, height], score}"
)
_ID = int | float | str
Names = Mapping[Hashable, str]
COCO_NAMES: Names = {x["id"]: x["name"] for x in COCO_CATEGORIES if x["isthing"]}
"""COCO's 80 classes by the ids of its files, 1 to 90, in order."""


class Detections(NamedTuple):
    """What a file of detections holds.

    Attributes:
        classes: names of those that its detector knows.
        images: by image id, as text, rows (n, 6): XYXY px of the image, score and class.
    """

    classes: tuple[str, ...]
    images: dict[str, np.ndarray]


def offline_file(cfg: CfgNode) -> str:
    """The file of detections that a training reads; "" for none."""
    distils = cfg.MODEL.META_ARCHITECTURE == "Distiller" and "SetKD" in cfg.DISTILL.HEADS
    return os.path.expanduser(cfg.DISTILL.SetKD.OFFLINE) if distils else ""


def offline_detections(cfg: CfgNode) -> Detections:
    """The detections of `DISTILL.SetKD.OFFLINE`, from SCORE_LOW on; read once.

    Raises:
        ConfigError: the file cannot be read, or is of another format.
    """
    path, data = offline_file(cfg), next(iter(cfg.DATASETS.TRAIN), "")
    names: dict[Hashable, str] = {}
    if data:
        dataset_num_classes(data, "DATASETS.TRAIN")
        metadata = MetadataCatalog.get(data)
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        names = {key: metadata.thing_classes[place] for key, place in ids.items()}
    state = os.stat(path).st_mtime_ns if os.path.isfile(path) else 0
    return _read(path, tuple(names.items()), cfg.DISTILL.SetKD.SCORE_LOW, state)


@lru_cache(maxsize=1)
def _read(
    path: str, names: tuple[tuple[Hashable, str], ...], least: float, state: int
) -> Detections:
    return read_detections(Path(path), dict(names), least)


def read_detections(path: Path, names: Names, least: float = 0.0) -> Detections:
    """Read COCO's results, or such a list with class names.

    A list of results has the category ids of the data, or of COCO; its detector knows the classes
    that are found in it. `{"categories": [{"id", "name"}], "annotations": results}` says which it
    knows; so may "category_name" in place of "category_id".

    Args:
        path: the file.
        names: classes of the data by their ids.
        least: detections of lower scores are left out.

    Raises:
        ConfigError: it is not in this format, or a category id has no name.
    """
    data, known = _json(path), {}
    if isinstance(data, dict):
        known = _categories(path, data.get("categories"))
        data = data.get("annotations")
    if not isinstance(data, list) or not set(map(type, data)) <= {dict}:
        raise ConfigError(f"{KEY}: {path} is no file of detections: {_SHAPE}.")
    table = known or _table(path, data, names)
    places = {name: place for place, name in enumerate(dict.fromkeys(known.values()))}
    rows: dict[str, list[tuple[float, ...]]] = {}
    for index, x in enumerate(data):
        key = x.get("category_id")
        name = x.get("category_name", table.get(key) if isinstance(key, _ID) else None)
        x0, y0, width, height, score = _numbers(path, index, x, name)
        place = places.setdefault(str(name), len(places))
        if score >= least and width > 0 and height > 0:
            row = x0, y0, x0 + width, y0 + height, score, place
            rows.setdefault(id_text(x["image_id"]), []).append(row)
    return Detections(tuple(places), {k: np.array(v, np.float32) for k, v in rows.items()})


def id_text(value: Any) -> str:
    """The id of an image as text; whole numbers without a fraction."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except ConfigError as error:
        raise type(error)(f"{KEY}: {error}") from None


def _categories(path: Path, entries: Any) -> dict[Hashable, str]:
    right = isinstance(entries, list) and all(
        isinstance(x, dict)
        and isinstance(x.get("id"), int | str)
        and isinstance(x.get("name"), str)
        for x in entries
    )
    if not right or not entries:
        raise ConfigError(f"{KEY}: {path} has no categories, a list of {{id, name}}.")
    return {x["id"]: x["name"] for x in entries}


def _table(path: Path, data: Sequence[dict[str, Any]], names: Names) -> Names:
    """The names of the category ids of results: the data's, or else COCO's."""
    ids = {
        str(x.get("category_id")): x.get("category_id") for x in data if "category_name" not in x
    }
    of_coco = all(COCO_NAMES.get(key) == name for key, name in names.items())
    for table in (names, COCO_NAMES) if of_coco else (names,):
        if all(isinstance(x, _ID) and x in table for x in ids.values()):
            return table
    unknown = ", ".join(key for key in ids if key not in map(str, names))
    raise ConfigError(
        f"{KEY}: {path} has category ids that the data does not have ({unknown[:100]}): write "
        '{"categories": [{"id": ..., "name": ...}], "annotations": [...]} instead of the list.'
    )


def _numbers(path: Path, index: int, x: dict[str, Any], name: Any) -> list[float]:
    """Box, XYWH px, and score; a box of NaN or infinite numbers has no width."""
    box, score = x.get("bbox"), x.get("score")
    values = [*box, score] if isinstance(box, list) else []
    right = isinstance(name, str) and isinstance(x.get("image_id"), _ID)
    if not right or len(values) != 5 or not set(map(type, values)) <= {int, float}:
        raise _malformed(path, index)
    if not 0 <= values[4] <= 1:
        raise _malformed(path, index)
    return values if all(map(math.isfinite, values)) else [0.0] * 5


def _malformed(path: Path, index: int) -> ConfigError:
    return ConfigError(
        f"{KEY}: {path}: entry {index} has no image_id, known class, box of four numbers or score "
        f"from 0 to 1: {_SHAPE}."
    )
