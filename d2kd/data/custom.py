"""The user's own data sets, named in a yaml file."""

import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

EXAMPLE = '[["cells_train", "cells/train.json", "cells/images"]]'


def add_data_config(cfg: CfgNode) -> None:
    """Add ``DATASETS.CUSTOM``, the user's own data sets in COCO's json format."""
    # [name, json file, image folder] per data set; see find_path for relative paths
    cfg.DATASETS.CUSTOM = []
    # share of the images used by RandomSubsetTrainingSampler; stock code reads it, but sets none
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0


def find_path(path: str) -> str:
    """Resolve a path of ``DATASETS.CUSTOM``.

    A relative path is looked for in ``$DETECTRON2_DATASETS``, in ``./datasets`` and in the working
    directory, in this order.

    Raises:
        FileNotFoundError: it is in none of them; the message lists the places.
    """
    roots = [os.environ.get("DETECTRON2_DATASETS", "datasets"), "datasets", ""]
    path = os.path.expanduser(path)
    tried = dict.fromkeys(os.path.join(os.path.expanduser(root), path) for root in roots)
    for candidate in tried:
        if os.path.exists(candidate):
            return os.path.abspath(candidate)
    raise FileNotFoundError(f"{path!r} not found (looked at {', '.join(tried)})")


def register_custom_datasets(cfg: CfgNode) -> None:
    """Register the entries of ``DATASETS.CUSTOM``; the same entry twice is registered once.

    Raises:
        ValueError: an entry is not three strings, or its name belongs to another data set.
        FileNotFoundError: the json file or the image folder does not exist.
    """
    for index, entry in enumerate(cfg.DATASETS.CUSTOM):
        key = f"DATASETS.CUSTOM[{index}]"
        if not isinstance(entry, (list, tuple)) or [type(v) for v in entry] != [str] * 3:
            raise ValueError(
                f"{key} is {entry!r}: give a list of [name, json file, image folder], for example "
                f"DATASETS.CUSTOM '{EXAMPLE}'"
            )
        try:
            json_file, images = find_path(entry[1]), find_path(entry[2])
        except FileNotFoundError as e:
            raise FileNotFoundError(
                f"{key} ({entry[0]!r}): {e}. Correct the path, or set DETECTRON2_DATASETS to the "
                "folder that holds the data sets (datasets/README.md)."
            ) from None
        if not os.path.isfile(json_file) or not os.path.isdir(images):
            raise ValueError(
                f"{key} ({entry[0]!r}): expected a json file and an image folder, in this order; "
                f"got {json_file} and {images}."
            )
        _register(key, entry[0], json_file, images)


def _register(key: str, name: str, json_file: str, images: str) -> None:
    """Register one data set unless the same is registered already."""
    if name not in DatasetCatalog:
        register_coco_instances(name, {}, json_file, images)
        return
    metadata = MetadataCatalog.get(name)
    known = (metadata.get("json_file"), metadata.get("image_root"))
    if known != (json_file, images):
        raise ValueError(
            f"{key}: the name {name!r} belongs to another data set ({known[0]}, {known[1]}). "
            "Choose another name, and use it in DATASETS.TRAIN and DATASETS.TEST too."
        )
