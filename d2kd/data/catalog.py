"""Reading registered data sets, and the checks before the first iteration."""

import difflib
import logging
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import ConfigError, MissingFileError
from .custom import EXAMPLE

logger = logging.getLogger(__name__)


def check_datasets(cfg: CfgNode, num_classes: int, key: str, train: bool = True) -> None:
    """Check ``DATASETS.TRAIN`` and ``DATASETS.TEST`` before the first iteration.

    Test sets are read here. Training sets are read by :func:`build_train_loader` anyway, with the
    same checks: call this after it, and they are not read twice.

    Args:
        cfg: the config; :func:`register_custom_datasets` has been called on it.
        num_classes: the model's number of classes.
        key: the config key of ``num_classes``, e.g. ``"MODEL.RETINANET.NUM_CLASSES"``.
        train: False for an evaluation, which needs ``DATASETS.TEST`` alone.

    Raises:
        ValueError: a data set is unknown, empty or broken, or its classes are not the model's or
            not those of the first data set.
    """
    keys = ("TRAIN", "TEST") if train else ("TEST",)
    for kind in keys:
        require_registered(cfg, kind)
    for name in cfg.DATASETS.TEST:
        load_dataset(name, "DATASETS.TEST")
    names = [name for kind in keys for name in cfg.DATASETS[kind]]
    for name in names:
        count = dataset_num_classes(name)
        if count != num_classes:
            raise ConfigError(
                f"{key} is {num_classes}, but the data set {name!r} has {count} classes. Set {key} "
                f"to {count}, or name another data set in DATASETS."
            )
        classes = [MetadataCatalog.get(n).thing_classes for n in (names[0], name)]
        for index, (ours, theirs) in enumerate(zip(*classes, strict=True)):
            if ours != theirs:
                raise ConfigError(
                    f"class {index} is {ours!r} in {names[0]!r} and {theirs!r} in {name!r}: all "
                    "data sets in DATASETS.TRAIN and DATASETS.TEST need the same classes, in order."
                )


def require_registered(cfg: CfgNode, kind: str) -> None:
    """Raise ValueError, with near names, if ``DATASETS.<kind>`` holds an unknown name.

    Args:
        cfg: the config.
        kind: ``"TRAIN"``, which must not be empty, or ``"TEST"``.
    """
    if kind == "TRAIN" and not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty: name at least one data set.")
    for name in cfg.DATASETS[kind]:
        if name not in DatasetCatalog:
            near = difflib.get_close_matches(name, DatasetCatalog.list(), n=5)
            hint = f"Did you mean {', '.join(near)}? " if near else ""
            raise ConfigError(
                f"DATASETS.{kind}: no data set is named {name!r}. {hint}Name a data set of your "
                f"own in DATASETS.CUSTOM, for example {EXAMPLE}"
            )


def dataset_num_classes(name: str) -> int:
    """Return a registered data set's number of classes; reads it only if that is not known yet."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        load_dataset(name)
    if metadata.get("thing_classes") is None:
        raise ConfigError(
            f"the data set {name!r} does not tell its classes: set "
            f"MetadataCatalog.get({name!r}).thing_classes where it is registered."
        )
    return len(metadata.thing_classes)


def load_dataset(
    name: str, key: str = "DATASETS.TRAIN", min_keypoints: int = 0
) -> list[dict[str, Any]]:
    """Read a registered data set and check what it holds.

    Args:
        name: in ``DatasetCatalog``.
        key: the config key that names it, for the errors.
        min_keypoints: images with fewer keypoints are left out.

    Returns:
        Records in Detectron2's format, images without annotations among them.
    """
    try:
        records = get_detection_dataset_dicts(
            [name],
            filter_empty=False,
            min_keypoints=min_keypoints,
            check_consistency=False,
        )
    except FileNotFoundError as e:
        raise MissingFileError(
            f"{key}: {name!r} needs {e.filename}. Set DETECTRON2_DATASETS to the folder that holds "
            "the data sets; datasets/README.md shows the files that each one needs."
        ) from e
    except (AssertionError, IndexError, KeyError, TypeError, ValueError) as e:
        source = MetadataCatalog.get(name).get("json_file", "no json file")
        raise ConfigError(
            f"{key}: {name!r} ({source}) cannot be read: {type(e).__name__}: {e}. It needs images, "
            "annotations and categories as in COCO's json format."
        ) from e
    _check_records(name, key, records)
    return records


def _check_records(name: str, key: str, records: list[dict[str, Any]]) -> None:
    """Check the first image files, the boxes' presence and the category ids."""
    for record in records[:3]:
        if not PathManager.isfile(record["file_name"]):
            raise MissingFileError(
                f"{key}: {name!r} names the image {record['file_name']}, which does not exist. "
                "Correct the image folder (DATASETS.CUSTOM or DETECTRON2_DATASETS)."
            )
    annotations = [a for r in records for a in r.get("annotations", [])]
    boxless = sum("bbox" not in a for a in annotations)
    if boxless:
        raise ConfigError(f"{key}: {name!r} has {boxless:,} annotations without a 'bbox'.")
    _check_types(name, key, records)
    categories = {a["category_id"] for a in annotations}
    if not categories and key == "DATASETS.TRAIN":
        raise ConfigError(f"{key}: {name!r} has {len(records):,} images and no annotation.")
    if not categories:
        logger.warning(f"{key}: {name!r} has no annotation, so it gives no AP.")
    classes = MetadataCatalog.get(name).get("thing_classes")
    bad = [c for c in categories if classes is not None and c not in range(len(classes))]
    if bad:
        raise ConfigError(
            f"{key}: {name!r} has category ids {sorted(bad)[:5]}, but {len(classes)} classes: ids "
            f"must be 0 to {len(classes) - 1} in Detectron2's records."
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


def is_box(box: Any, mode: BoxMode) -> bool:
    """Whether a box has as many numbers as its mode needs; NaN is a number."""
    length = 5 if mode == BoxMode.XYWHA_ABS else 4
    return isinstance(box, Sequence | np.ndarray) and len(box) == length and are_numbers(box)


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether all values are numbers below 1e15 in magnitude, or NaN."""
    return all(isinstance(x, Real) and ((x < 1e15 and not x <= -1e15) or x != x) for x in values)
