"""COCO's json format, written and read."""

import json
from collections import Counter
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingFileError
from ..file_io import write_atomically

Box = tuple[str, float, float, float, float]
"""Class, x, y, width and height, px."""

_NEEDED: dict[str, dict[str, Any]] = {
    "images": {"id": (str, Real), "file_name": str},
    "categories": {"id": Real, "name": (str, Real)},
    "annotations": {"image_id": (str, Real), "category_id": Real},
}


def write_coco(path: Path, images: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
    """Write one split as a json file; the same input gives the same bytes.

    Args:
        path: the file.
        images: dicts of file_name, width and height (px) and boxes, a list of `Box`; maybe
            polygons: for each box a list of x, y, x, y ... in px, empty if it has none.
        classes: names in the order of their ids, from 1.
    """
    text = json.dumps(to_coco(images, list(classes))) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def to_coco(images: Sequence[dict[str, Any]], classes: list[str]) -> dict[str, Any]:
    """Number images, objects and classes from 1, in their order, into COCO's json format."""
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, 1):
        stated = {k: v for k, v in image.items() if k not in ("boxes", "polygons")}
        records.append({"id": image_id, **stated})
        polygons = image.get("polygons") or [[]] * len(image["boxes"])
        for (name, *box), polygon in zip(image["boxes"], polygons, strict=True):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": classes.index(name) + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            if polygon:
                annotation |= {"area": polygon_area(polygon), "segmentation": [polygon]}
            annotations.append(annotation)
    return {
        "info": {"description": "converted by d2kd"},
        "licenses": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
        "images": records,
        "annotations": annotations,
    }


def polygon_area(polygon: Sequence[float]) -> float:
    """Area of a polygon x, y, x, y ... in px^2 (shoelace formula)."""
    xs, ys = polygon[::2], polygon[1::2]
    return abs(sum(xs[i] * ys[i - 1] - xs[i - 1] * ys[i] for i in range(len(xs)))) / 2


def read_coco(path: Path) -> dict[str, Any]:
    """Read a json file with images, categories and maybe annotations; each has its ids.

    Raises:
        ConfigError: it is not in COCO's format; the message says what is wrong, in one line.
    """
    try:
        coco = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise _malformed(path, str(error)) from None
    if not isinstance(coco, dict):
        raise _malformed(path, "it holds no images and categories")
    coco = {"annotations": [], **coco}
    for key, needed in _NEEDED.items():
        entries = coco.get(key)
        if not isinstance(entries, list) or not (entries or key == "annotations"):
            raise _malformed(path, f"it has no list of {key}")
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise _malformed(path, f"{key}[{index}] is no dictionary")
            for name, kind in needed.items():
                if not isinstance(entry.get(name), kind):
                    raise _malformed(path, f"{key}[{index}] has the {name} {entry.get(name)!r}")
    return coco


def _malformed(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path} is not in COCO's json format: {reason[:200]}")


def summary(path: Path) -> tuple[int, dict[str, int]]:
    """Count a json file's images, and the objects of each class."""
    coco = json.loads(path.read_text("utf-8"))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    counts = Counter(names[a["category_id"]] for a in coco["annotations"])
    return len(coco["images"]), {name: counts[name] for name in names.values()}
