"""Reading registered data sets, and the checks before the first iteration."""

import difflib
import logging
import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import filter_images_with_few_keypoints
from detectron2.utils.file_io import PathManager

from ..errors import ConfigError, MissingFileError
from .custom import EXAMPLE
from .function_sets import read_function
from .keypoints import with_keypoints
from .near_files import near_file
from .records import read_records

logger = logging.getLogger(__name__)
# where functions are from that read a json file and do nothing else
_READERS_OF_JSON = ("d2kd.data.builtin", "detectron2.data.datasets.coco")
FEW = 50  # images


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
        records = load_dataset(name, "DATASETS.TEST", masks="all" if cfg.MODEL.MASK_ON else "")
        if len(records) < FEW:
            logger.warning(f"DATASETS.TEST: {name!r} has {few_images(len(records))}.")
    names = [name for kind in keys for name in cfg.DATASETS[kind]]
    for name in names:
        trained = train and name in cfg.DATASETS.TRAIN
        count = dataset_num_classes(name, "DATASETS.TRAIN" if trained else "DATASETS.TEST")
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


def few_images(count: int) -> str:
    """What follows from a test set of fewer images than `FEW`."""
    return (
        f"{count} images: on fewer than {FEW}, AP moves by several points by chance. Hold more "
        "images back"
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


def dataset_num_classes(name: str, key: str = "DATASETS") -> int:
    """Return a registered data set's number of classes; reads it only if that is not known yet.

    Args:
        name: in ``DatasetCatalog``.
        key: the config key that names it, for the errors.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        load_dataset(name, key)
    if metadata.get("thing_classes") is None:
        raise ConfigError(
            f"the data set {name!r} does not tell its classes: set "
            f"MetadataCatalog.get({name!r}).thing_classes where it is registered."
        )
    return len(metadata.thing_classes)


def load_labelled(cfg: CfgNode, name: str, key: str) -> list[dict[str, Any]]:
    """`load_dataset` with the masks and key points that a config's detector is trained on.

    Of DATASETS.TRAIN, images with few key points are left out.
    """
    masks = cfg.INPUT.MASK_FORMAT if cfg.MODEL.MASK_ON else ""
    if not cfg.MODEL.KEYPOINT_ON:
        return load_dataset(name, key, masks=masks)
    head = cfg.MODEL.ROI_KEYPOINT_HEAD
    few = head.MIN_KEYPOINTS_PER_IMAGE * (key == "DATASETS.TRAIN")
    return with_keypoints(
        load_dataset(name, key, few, masks), head.NUM_KEYPOINTS, f"{key}: {name!r}"
    )


def load_dataset(
    name: str, key: str = "DATASETS.TRAIN", min_keypoints: int = 0, masks: str = ""
) -> list[dict[str, Any]]:
    """Read a registered data set and check what it holds.

    Sets in COCO's json format are read by :func:`.records.read_records`, others by the function
    that they are registered with.

    Args:
        name: in ``DatasetCatalog``.
        key: the config key that names it, for the errors.
        min_keypoints: images with fewer keypoints are left out.
        masks: which masks are read; see :func:`.records.read_records`.

    Returns:
        Records in Detectron2's format, images without annotations among them.
    """
    records = _read(name, key, masks)
    _check_records(name, key, records)
    if min_keypoints <= 0:
        return records
    found = filter_images_with_few_keypoints(records, min_keypoints)
    if not found:
        raise ConfigError(
            f"MODEL.KEYPOINT_ON: {name!r} in {key} has no image with {min_keypoints} keypoints "
            "(MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE): set it to False."
        )
    return found


def _read(name: str, key: str, masks: str) -> list[dict[str, Any]]:
    metadata = MetadataCatalog.get(name)
    if is_json_set(name):
        json_file = PathManager.get_local_path(metadata.json_file)
        return read_records(name, json_file, metadata.image_root, masks, key)
    return read_function(name, key)


def is_json_set(name: str) -> bool:
    """Whether a registered data set is no more than a json file in COCO's format and a folder."""
    metadata = MetadataCatalog.get(name)
    return (
        DatasetCatalog[name].__module__ in _READERS_OF_JSON
        and metadata.get("evaluator_type") in ("coco", "crowdhuman")
        and bool(metadata.get("json_file"))
        and metadata.get("image_root") is not None
    )


def _check_records(name: str, key: str, records: list[dict[str, Any]]) -> None:
    """Check the first image files, and that there are objects."""
    root = MetadataCatalog.get(name).get("image_root", "")
    for path in (record["file_name"] for record in records[:3]):
        if not PathManager.isfile(path):
            hint = near_file(root, os.path.relpath(path, root) if root else path)
            raise MissingFileError(
                f"{key}: {name!r} names the image {path}, which does not exist{hint}. Correct the "
                "image folder (DATASETS.CUSTOM or DETECTRON2_DATASETS), or the file_name."
            )
    if any(record.get("annotations") for record in records):
        return
    if key == "DATASETS.TRAIN":
        raise ConfigError(f"{key}: {name!r} has {len(records):,} images and no annotation.")
    if key == "DATASETS.TEST":
        logger.warning(f"{key}: {name!r} has no annotation, so it gives no AP.")
