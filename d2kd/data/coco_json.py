"""COCO's json format, written and read."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..file_io import read_head, read_json, write_atomically

Box = tuple[str, float, float, float, float]
"""Class, x, y, width and height, px."""

_BY = "converted by d2kd"
_OURS = f'{{"info": {{"description": "{_BY}"}}'.encode()
_ID = frozenset({int, float, str})
_NEEDED: dict[str, dict[str, frozenset[type]]] = {
    "images": {"id": _ID, "file_name": frozenset({str})},
    "categories": {"id": _ID, "name": _ID},
    "annotations": {"image_id": _ID, "category_id": _ID},
}


def write_splits(
    paths: dict[str, Path], images: dict[str, list[dict[str, Any]]], classes: Sequence[str]
) -> dict[str, Path]:
    """Write a file for each split; see `write_coco`.

    Raises:
        ConfigError: one of the files is there and is another than d2kd's. None is written then.
    """
    for path in paths.values():
        if path.exists() and not read_head(path, len(_OURS)) == _OURS:
            raise ConfigError(
                f"{path} exists and is not d2kd's: choose another folder to write to."
            )
    for split, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_coco(path, images[split], classes)
    return paths


def write_coco(path: Path, images: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
    """Write one split as a json file; the same input gives the same bytes.

    Args:
        path: the file.
        images: dicts of file_name, width and height (px) and boxes, a list of `Box`; maybe
            polygons: for each box a list of x, y, x, y ... in px, empty if it has none.
        classes: names in the order of their ids, from 1.
    """
    write_json(path, to_coco(images, list(classes)))


def write_json(path: Path, coco: dict[str, Any]) -> None:
    """Write what `to_coco` or `read_coco` gives; the same input gives the same bytes."""
    text = json.dumps({key: value for key, value in coco.items() if key != "linked"}) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def to_coco(images: Sequence[dict[str, Any]], classes: list[str]) -> dict[str, Any]:
    """Number images, objects and classes from 1, in their order, into COCO's json format."""
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    class_ids = {name: i for i, name in enumerate(classes, 1)}
    for image_id, image in enumerate(images, 1):
        stated = {k: v for k, v in image.items() if k not in ("boxes", "polygons")}
        records.append({"id": image_id, **stated})
        polygons = image.get("polygons") or [[]] * len(image["boxes"])
        for (name, *box), polygon in zip(image["boxes"], polygons, strict=True):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": class_ids[name],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            if polygon:
                annotation |= {"area": polygon_area(polygon), "segmentation": [polygon]}
            annotations.append(annotation)
    return {
        "info": {"description": _BY},
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
    """Read a json file with images, categories and maybe annotations, whose ids fit each other.

    Ids are whole numbers, fractions or texts. Annotations that write the id of their image or
    class in another way (``1`` or ``"1"`` for ``"0001"``) get it as it is listed; the list "linked"
    has the places of these annotations.

    Raises:
        ConfigError: it is not in COCO's format; the message says what is wrong, in one line.
    """
    coco = read_json(path)
    if not isinstance(coco, dict):
        raise _malformed(path, "it holds no images and categories")
    coco = {"annotations": [], **coco}
    for key, needed in _NEEDED.items():
        entries = coco.get(key)
        if not isinstance(entries, list) or not (entries or key == "annotations"):
            raise _malformed(path, f"it has no list of {key}")
        if not set(map(type, entries)) <= {dict}:
            index = next(i for i, entry in enumerate(entries) if type(entry) is not dict)
            raise _malformed(path, f"{key}[{index}] is no dictionary")
        for name, kinds in needed.items():
            _check_values(path, key, name, [entry.get(name) for entry in entries], kinds)
    images = _link(coco["annotations"], "image_id", coco["images"])
    classes = _link(coco["annotations"], "category_id", coco["categories"])
    return {**coco, "linked": sorted({*images, *classes})}


def classes_in_order(coco: dict[str, Any]) -> dict[Any, str]:
    """Ids and names of the classes, by id: numbers (also as text) first, then other texts."""
    entries = sorted(coco["categories"], key=lambda x: id_order(x["id"]))
    return {x["id"]: str(x["name"]) for x in entries}


def id_order(value: Any) -> tuple[bool, float, str]:
    """A key that sorts ids: numbers, among them those written as text, before other texts."""
    number = _number(value)
    return (True, 0, value) if isinstance(number, str) else (False, number, str(value))


def _number(value: Any) -> Any:
    """The whole number that an id stands for, or else the id."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else value
    return int(value) if value == int(value) else value


def _check_values(
    path: Path, key: str, name: str, values: list[Any], kinds: frozenset[type]
) -> None:
    if set(map(type, values)) <= kinds and (
        float not in kinds or all(x - x == 0 for x in values if type(x) is float)
    ):
        return
    for index, value in enumerate(values):
        if type(value) not in kinds or (type(value) is float and value - value != 0):
            raise _malformed(path, f"{key}[{index}] has the {name} {value!r}")


def _link(annotations: list[dict[str, Any]], name: str, targets: list[dict[str, Any]]) -> list[int]:
    """Give annotations the listed id that they mean, as far as it is clear which; their places."""
    listed = {target["id"] for target in targets}
    if {annotation[name] for annotation in annotations} <= listed:
        return []
    meant = Counter(_number(target) for target in listed)
    as_listed = {_number(x): x for x in listed if meant[_number(x)] == 1}
    linked = []
    for place, annotation in enumerate(annotations):
        value = annotation[name]
        if value not in listed and _number(value) in as_listed:
            annotation[name] = as_listed[_number(value)]
            linked.append(place)
    return linked


def _malformed(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path} is not in COCO's json format: {reason[:200]}")


def summary(path: Path) -> tuple[int, dict[str, int]]:
    """Count a json file's images, and the objects of each class."""
    coco = read_coco(path)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    counts = Counter(names[a["category_id"]] for a in coco["annotations"])
    return len(coco["images"]), {name: counts[name] for name in names.values()}
