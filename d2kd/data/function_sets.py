"""Data sets that a function of the user's registers: read, and checked."""

from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import ConfigError, MissingFileError
from .boxes import are_numbers, is_box
from .listing import listed, repeated
from .records import WHERE_SETS_ARE


def read_function(name: str, key: str) -> list[dict[str, Any]]:
    """Records as the function of a registered data set returns them.

    Args:
        name: in ``DatasetCatalog``.
        key: the config key that names it, for the errors; those of DATASETS.TEST need image ids.

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
    if not len(records):
        raise ConfigError(f"{key}: {name!r} is empty.")
    if key == "DATASETS.TEST":
        _check_ids(name, key, records)
    _check_objects(name, key, records)
    return records


def _check_ids(name: str, key: str, records: list[dict[str, Any]]) -> None:
    """Check that each image can be told from the others: detections belong to an image id."""
    without = [record["file_name"] for record in records if "image_id" not in record]
    lines = listed(without, "images have no 'image_id'") or listed(
        repeated(record["image_id"] for record in records), "image ids are used more than once"
    )
    for line in lines:
        raise ConfigError(f"{key}: {name!r}: {line} (give each image an id of its own).")


def _check_objects(name: str, key: str, records: list[dict[str, Any]]) -> None:
    """Check boxes, sizes and category ids."""
    pairs = [(r, a) for r in records for a in r.get("annotations", [])]
    annotations = [a for _, a in pairs]
    boxless = sum("bbox" not in a for a in annotations)
    if boxless:
        raise ConfigError(f"{key}: {name!r} has {boxless:,} annotations without a 'bbox'.")
    _check_types(name, key, records)
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        return
    known = range(len(classes))
    bad = [(r["file_name"], c) for r, a in pairs if (c := a["category_id"]) not in known]
    for file, category in bad:
        more = f" (and {len(bad) - 1:,} more such objects)" if bad[1:] else ""
        raise ConfigError(
            f"{key}: {name!r}: {file} has category_id {category!r}{more}, but there are "
            f"{len(classes)} classes: ids must be 0 to {len(classes) - 1} in Detectron2's records."
        )


def _check_types(name: str, key: str, records: list[dict[str, Any]]) -> None:
    """Image sizes are numbers above 0, and boxes four numbers (NaN among them: it is dropped)."""
    for record in records:
        size = record.get("width", 1), record.get("height", 1)
        found = record.get("annotations", [])
        wrong = [f"bbox {a['bbox']!r}" for a in found if not is_box(a["bbox"], a["bbox_mode"])]
        if not are_numbers(size) or not min(size) > 0:
            wrong.append(f"width and height {size!r}")
        if wrong:
            raise ConfigError(
                f"{key}: {name!r}: {record['file_name']} has {wrong[0]}: boxes are four numbers, "
                "x, y, width, height in px, and width and height are above 0."
            )
