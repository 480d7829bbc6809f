"""Data sets that a function of the user's registers: read, and checked."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..errors import ConfigError, MissingFileError
from .boxes import are_numbers, is_box
from .listing import listed, repeated
from .records import WHERE_SETS_ARE

_PATH = (str, os.PathLike)
_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)


def read_function(name: str, key: str) -> list[dict[str, Any]]:
    """Records as the function of a registered data set returns them.

    Args:
        name: in ``DatasetCatalog``.
        key: the config key that names it, for the errors; images of DATASETS.TEST need ids and
            sizes.

    Raises:
        MissingFileError: the function misses a file.
        ConfigError: it fails, or its records are not in Detectron2's format.
    """
    try:
        records = DatasetCatalog.get(name)
    except FileNotFoundError as e:
        raise MissingFileError(f"{key}: {name!r} needs {e.filename}. {WHERE_SETS_ARE}") from e
    except (AssertionError, IndexError, KeyError, TypeError, ValueError) as e:
        raise ConfigError(
            f"{key}: {name!r} cannot be read: {type(e).__name__}: {e}. The function that it is "
            "registered with must return records in Detectron2's format."
        ) from e
    for fault in _faults(records):
        raise ConfigError(
            f"{key}: {name!r}: {fault}. The function that it is registered with must return a list "
            "of dictionaries with file_name, and annotations with bbox (x, y, width, height in "
            "px), bbox_mode (BoxMode.XYWH_ABS) and category_id; width and height are above 0."
        )
    if not len(records):
        raise ConfigError(f"{key}: {name!r} is empty.")
    if key == "DATASETS.TEST":
        _check_images(name, key, records)
    _check_classes(name, key, records)
    return records


def _faults(records: Any) -> Iterator[str]:
    """What is not in Detectron2's format; NaN is a number in boxes, which are dropped for it."""
    if not isinstance(records, Sequence):
        yield f"it returns {type(records).__name__}"
        return
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("file_name"), _PATH):
            yield f"a record has no file_name: {str(record)[:100]}"
            continue
        size = record.get("width", 1), record.get("height", 1)
        found = record.get("annotations", [])
        if not are_numbers(size) or not min(size) > 0:
            yield f"{record['file_name']} has width and height {size!r}"
        if not isinstance(found, Sequence):
            yield f"{record['file_name']} has annotations {str(found)[:100]}"
        else:
            yield from (f"{record['file_name']} has {x}" for x in map(_fault, found) if x)


def _fault(annotation: Any) -> str:
    if not isinstance(annotation, dict):
        return f"an annotation {str(annotation)[:100]}"
    for key in ("bbox", "bbox_mode", "category_id"):
        if key not in annotation:
            return f"an annotation without {key!r}"
    box, mode = annotation["bbox"], annotation["bbox_mode"]
    if mode not in _MODES:
        return f"bbox_mode {mode!r}"
    return "" if is_box(box, mode) else f"bbox {box!r}"


def _check_images(name: str, key: str, records: list[dict[str, Any]]) -> None:
    """Check that detections can belong to an image id, and be written in COCO's format."""
    for needed in ("image_id", "height", "width"):
        without = [record["file_name"] for record in records if needed not in record]
        for line in listed(without, f"images have no {needed!r}"):
            raise ConfigError(f"{key}: {name!r}: {line} (evaluation needs it).")
    twice = repeated(record["image_id"] for record in records)
    for line in listed(twice, "image ids are used more than once"):
        raise ConfigError(f"{key}: {name!r}: {line} (give each image an id of its own).")


def _check_classes(name: str, key: str, records: list[dict[str, Any]]) -> None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        return
    pairs = [(r, a) for r in records for a in r.get("annotations", [])]
    known = range(len(classes))
    bad = [(r["file_name"], c) for r, a in pairs if (c := a["category_id"]) not in known]
    for file, category in bad:
        more = f" (and {len(bad) - 1:,} more such objects)" if bad[1:] else ""
        raise ConfigError(
            f"{key}: {name!r}: {file} has category_id {category!r}{more}, but there are "
            f"{len(classes)} classes: ids must be 0 to {len(classes) - 1} in Detectron2's records."
        )
