"""The one reader of annotations: a json file in COCO's format as checked records."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from ..errors import ConfigError, MissingFileError
from .annotation_checks import CheckedAnnotations, check_annotations
from .coco_json import classes_in_order, id_order, read_coco
from .findings import Finding, stop_or_warn
from .keypoints import keypoints_of
from .masks import readable
from .pixels import PixelError, image_size

Size = tuple[int, int]
WHERE_SETS_ARE = (
    "Set DETECTRON2_DATASETS to the folder that holds the data sets; datasets/README.md shows the "
    "files that each one needs."
)


class CheckedSet(NamedTuple):
    """What a json file holds.

    Attributes:
        coco: see `read_coco`.
        sizes: width and height (px) by image id; None where neither file nor json tell.
        annotations: those that are used, and what was found.
    """

    coco: dict[str, Any]
    sizes: dict[Any, Size | None]
    annotations: CheckedAnnotations


def check_json(path: Path, images: Path, masks: str = "") -> CheckedSet:
    """Read and check a json file; see `read_records`."""
    coco = read_coco(path)
    sizes, findings = _sizes(coco["images"], images)
    checked = check_annotations(coco, sizes, masks)
    return CheckedSet(coco, sizes, checked._replace(findings=[*findings, *checked.findings]))


def read_records(
    name: str, json_file: str, images: str, masks: str = "", key: str = "DATASETS"
) -> list[dict[str, Any]]:
    """Records of a data set in Detectron2's format, images and their objects in order of image ids.

    The classes are set in the data set's metadata. What cannot be used is left out, with one
    warning that counts it.

    Args:
        name: of the data set.
        json_file: path.
        images: folder of the image files.
        masks: "polygon" or "bitmask" to train on masks of that INPUT.MASK_FORMAT, "all" to evaluate
            masks, which crowds need too; "any" for the masks that can be read, "" for none.
        key: the config key that names the data set, for the errors.

    Returns:
        Records, whose "image_id" is the json file's; objects have bbox (XYWH px), category_id from
        0, iscrowd (0 or 1), area (px^2) and maybe segmentation and keypoints.

    Raises:
        ConfigError: the file, or something in it, cannot be used.
    """
    try:
        checked = check_json(Path(json_file), Path(images), masks)
    except MissingFileError as error:
        raise MissingFileError(f"{key}: {name!r}: {error} {WHERE_SETS_ARE}") from None
    except ConfigError as error:
        raise ConfigError(f"{key}: {name!r}: {error}") from None
    stop_or_warn(checked.annotations.findings, key, f"{name!r} ({json_file})")
    classes = classes_in_order(checked.coco)
    numbers = {category: number for number, category in enumerate(classes)}
    _set_classes(name, json_file, list(classes.values()), numbers)
    order = sorted(checked.coco["images"], key=lambda x: id_order(x["id"]))
    records = {x["id"]: _record(x, images, checked.sizes[x["id"]]) for x in order}
    for image_id, annotation in _objects(checked, numbers):
        records[image_id]["annotations"].append(annotation)
    return list(records.values())


def _record(image: dict[str, Any], images: str, size: Size | None) -> dict[str, Any]:
    width, height = size or (0, 0)
    return {
        "file_name": os.path.join(images, image["file_name"]),
        "height": height,
        "width": width,
        "image_id": image["id"],
        "annotations": [],
    }


def _objects(checked: CheckedSet, numbers: dict[Any, int]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Image id and object of each annotation that is used, in their order."""
    annotations, (_, areas, masks, _) = checked.coco["annotations"], checked.annotations
    for index in np.flatnonzero(checked.annotations.kept):
        x = annotations[index]
        box = x["bbox"]
        found = {
            "iscrowd": int(x.get("iscrowd") or 0),
            "bbox": box,
            "category_id": numbers[x["category_id"]],
            "bbox_mode": BoxMode.XYWH_ABS,
            "area": x["area"] if areas[index] else float(box[2] * box[3]),
        }
        if "keypoints" in x and (points := keypoints_of(x)):
            found["keypoints"] = points
        if masks and masks[index]:
            found["segmentation"] = readable(x["segmentation"])
        yield x["image_id"], found


def _set_classes(name: str, json_file: str, classes: list[str], numbers: dict[Any, int]) -> None:
    metadata = MetadataCatalog.get(name)
    try:
        metadata.set(thing_classes=classes, thing_dataset_id_to_contiguous_id=numbers)
    except AssertionError:
        had, what, ours = list(metadata.thing_classes), "classes", classes
        if had == classes:
            what, ours = "category ids", [*numbers]
            had = [*metadata.get("thing_dataset_id_to_contiguous_id", {})]
        now, before = (", ".join(map(str, x))[:200] for x in (ours, had))
        raise ConfigError(
            f"{name!r} ({json_file}) has the {what} {now} now, and had {before}: give the set "
            "another name."
        ) from None


def _sizes(
    images: list[dict[str, Any]], folder: Path
) -> tuple[dict[Any, Size | None], list[Finding]]:
    """Sizes by image id, as stated or else read from the files, and what was found."""
    sizes: dict[Any, Size | None] = {x["id"]: stated_size(x) for x in images}
    missing = [x for x in images if not sizes[x["id"]]]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda x: _file_size(folder / x["file_name"]), missing))
    sizes |= {x["id"]: size for x, size in zip(missing, read, strict=True)}
    lost = [x["file_name"] for x, size in zip(missing, read, strict=True) if not size]
    found = [x["file_name"] for x, size in zip(missing, read, strict=True) if size]
    what = "images have no width and height above 0"
    return sizes, [
        Finding(f"{what}, and their files cannot be read", lost, "stops", "write them in px"),
        Finding(f"{what}; those of the files are taken", found, "changes"),
    ]


def stated_size(image: dict[str, Any]) -> Size | None:
    """Width and height (px) of an entry of a json file; None where they are no sizes."""
    width, height = image.get("width", 0), image.get("height", 0)
    right = all(type(x) in (int, float) and 0 < x < 1e9 and x == int(x) for x in (width, height))
    return (int(width), int(height)) if right else None


def _file_size(path: Path) -> Size | None:
    try:
        return image_size(path)
    except PixelError:
        return None
