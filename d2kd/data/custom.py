"""The user's own data sets, named in a yaml file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import ConfigError, MissingFileError, check_choice
from .builtin import register_coco_format

EVALUATORS = ("coco", "crowdhuman")
EXAMPLE = '[["cells_train", "cells/train.json", "cells/images"]]'


def add_data_config(cfg: CfgNode) -> None:
    """Add ``DATASETS.CUSTOM``, the user's own data sets in COCO's json format."""
    # [name, json file, image folder], optionally evaluator, per data set; see find_path for paths
    cfg.DATASETS.CUSTOM = []
    # folders of images without annotations, or names of data sets whose annotations do not count
    cfg.DATASETS.UNLABELLED = ()
    # share of the images used by RandomSubsetTrainingSampler; stock code reads it, but sets none
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0
    cfg.DATALOADER.SKIP_BAD_IMAGES = False  # take the next image instead of one that is unreadable


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

    A fourth string names the evaluator: "coco", the default, or "crowdhuman".

    Raises:
        ValueError: an entry is not three or four strings, the evaluator is unknown, or the name
            belongs to another data set.
        FileNotFoundError: the json file or the image folder does not exist.
    """
    for index, entry in enumerate(cfg.DATASETS.CUSTOM):
        key = f"DATASETS.CUSTOM[{index}]"
        strings = isinstance(entry, (list, tuple)) and all(isinstance(v, str) for v in entry)
        if not strings or len(entry) not in (3, 4):
            raise ConfigError(
                f"{key} is {entry!r}: give a list of [name, json file, image folder], and maybe a "
                f"fourth string, the evaluator; for example DATASETS.CUSTOM '{EXAMPLE}'"
            )
        evaluator = [*entry, "coco"][3]
        check_choice(evaluator, EVALUATORS, f"{key}[3]")
        try:
            json_file, images = find_path(entry[1]), find_path(entry[2])
        except FileNotFoundError as e:
            raise MissingFileError(
                f"{key} ({entry[0]!r}): {e}. Correct the path, or set DETECTRON2_DATASETS to the "
                "folder that holds the data sets (datasets/README.md)."
            ) from None
        if not os.path.isfile(json_file) or not os.path.isdir(images):
            raise ConfigError(
                f"{key} ({entry[0]!r}): expected a json file and an image folder, in this order; "
                f"got {json_file} and {images}."
            )
        _register(key, entry[0], json_file, images, evaluator)


@contextmanager
def registered(cfg: CfgNode) -> Iterator[None]:
    """`register_custom_datasets` for a while: new names are free again afterwards."""
    before = set(DatasetCatalog.list())
    try:
        register_custom_datasets(cfg)
        yield
    finally:
        for name in set(DatasetCatalog.list()) - before:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def _register(key: str, name: str, json_file: str, images: str, evaluator: str) -> None:
    """Register one data set unless the same is registered already."""
    if name not in DatasetCatalog:
        register_coco_format(name, json_file, images, evaluator)
        return
    metadata = MetadataCatalog.get(name)
    known = [metadata.get(x) for x in ("json_file", "image_root", "evaluator_type")]
    if known != [json_file, images, evaluator]:
        raise ConfigError(
            f"{key}: the name {name!r} belongs to another data set ({', '.join(map(str, known))}). "
            "Choose another name, and use it in DATASETS.TRAIN and DATASETS.TEST too."
        )
