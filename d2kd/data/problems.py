"""What is wrong with a data set in COCO's json format, as a list to read."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import ConfigError
from .boxes import TOLERANCE
from .coco_json import image_size
from .folder import Split

_SHOWN = 3


def find_problems(split: Split, read_images: bool = True) -> list[str]:
    """List what is wrong with one split; nothing is changed.

    Args:
        split: see `read_dataset_folder`.
        read_images: also open each image's header, and compare its size with the json file's.

    Returns:
        One line for each kind of problem, with its count and the first examples.

    Raises:
        ConfigError: the json file does not have COCO's structure.
    """
    try:
        coco = json.loads(split.json.read_text(encoding="utf-8"))
        images, annotations = coco["images"], coco.get("annotations", [])
        problems = _image_problems(split, images, read_images)
        return problems + _annotation_problems(coco["categories"], images, annotations)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{split.json} is not in COCO's json format: {type(error).__name__}: {error}"
        ) from None


def compare_splits(splits: dict[str, Split]) -> list[str]:
    """Classes that are in another order, or differ, and images that are in two splits."""
    problems, names = [], {}
    first = next(iter(splits))
    for name, split in splits.items():
        images = json.loads(split.json.read_text(encoding="utf-8"))["images"]
        names[name] = {str((split.images / str(x["file_name"])).resolve()) for x in images}
        if split.classes != splits[first].classes:
            problems.append(f"the classes of {name} {split.classes} are not those of {first} "
                            f"{splits[first].classes}, in order")  # fmt: skip
    for a, b in ((a, b) for a in names for b in names if a < b):
        shared = sorted(names[a] & names[b])
        problems += _report(shared, f"images are in {a} and in {b}")
    return problems


def compare_classes(ours: Sequence[str], teachers: int | Sequence[str]) -> list[str]:
    """How a data set's classes differ from a teacher's number or names of classes."""
    count = teachers if isinstance(teachers, int) else len(teachers)
    if count != len(ours):
        return [
            f"the teacher has {count} classes, the data set {len(ours)}: methods that read class "
            "predictions will refuse the pair; PKD, CWD, MGD, FitNets and StructuredKD do not"
        ]
    if isinstance(teachers, int) or list(teachers) == list(ours):
        return []
    pairs = [f"{i}: {a!r} and {b!r}" for i, (a, b) in enumerate(zip(ours, teachers, strict=True))
             if a != b]  # fmt: skip
    return _report(pairs, "classes differ from the teacher's")


def _report(found: Iterable[Any], what: str) -> list[str]:
    found = list(found)
    if not found:
        return []
    shown = ", ".join(map(str, found[:_SHOWN]))
    more = ", ..." if len(found) > _SHOWN else ""
    return [f"{len(found):,} {what}: {shown}{more}"]


def _twice(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _image_problems(split: Split, images: list[dict], read_images: bool) -> list[str]:
    problems = _report(_twice(x["id"] for x in images), "image ids are used more than once")
    problems += _report(_twice(x["file_name"] for x in images), "files are listed more than once")
    check: Callable[[dict], str] = _image_problem if read_images else _missing
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda x: (check(split.images, x), x["file_name"]), images))
    for kind in ("do not exist", "cannot be read", "have another size than stated"):
        problems += _report((name for state, name in found if state == kind), f"images {kind}")
    return problems


def _missing(folder: Path, image: dict) -> str:
    return "" if (folder / image["file_name"]).is_file() else "do not exist"


def _image_problem(folder: Path, image: dict) -> str:
    path = folder / image["file_name"]
    if not path.is_file():
        return "do not exist"
    try:
        size = image_size(path)
    except ValueError:
        return "cannot be read"
    stated = image.get("width"), image.get("height")
    return "" if stated == size else "have another size than stated"


def _annotation_problems(
    categories: list[dict], images: list[dict], annotations: list[dict]
) -> list[str]:
    sizes = {x["id"]: (x.get("width", np.inf), x.get("height", np.inf)) for x in images}
    names = {x["id"]: x["name"] for x in categories}
    problems = _report(_twice(a.get("id") for a in annotations), "annotation ids are used twice")
    problems += _report(_twice(names.values()), "class names are used twice")
    lost = [a.get("id") for a in annotations if a["image_id"] not in sizes]
    problems += _report(lost, "annotations are of images that are not listed, ids")
    lost = [a.get("id") for a in annotations if a["category_id"] not in names]
    problems += _report(lost, "annotations are of classes that are not listed, ids")
    kept = [a for a in annotations if a["image_id"] in sizes]
    used = {a["category_id"] for a in kept}
    problems += _report((n for i, n in names.items() if i not in used), "classes have no object")
    with_objects = {a["image_id"] for a in kept}
    empty = [x["file_name"] for x in images if x["id"] not in with_objects]
    if kept:
        problems += _report(empty, "images have no object, and training leaves them out")
    return problems + _box_problems(kept, sizes)


def _box_problems(annotations: list[dict], sizes: dict[Any, tuple]) -> list[str]:
    ids = np.array([str(a.get("id")) for a in annotations])
    boxes = np.array([a["bbox"] for a in annotations], dtype=float).reshape(-1, 4)
    limits = np.array([sizes[a["image_id"]] for a in annotations], dtype=float).reshape(-1, 2)
    finite = np.isfinite(boxes).all(1)
    flat = finite & (boxes[:, 2:] <= 0).any(1)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    outside = ((corners[:, :2] < -TOLERANCE) | (corners[:, 2:] > limits + TOLERANCE)).any(1)
    kinds = {
        "boxes have NaN or infinite values, ids": ~finite,
        "boxes have no width or height, ids": flat,
        "boxes reach outside of their image and will be clipped, ids": finite & ~flat & outside,
    }
    return [line for what, mask in kinds.items() for line in _report(ids[mask].tolist(), what)]
