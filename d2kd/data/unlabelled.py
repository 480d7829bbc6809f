"""Images without annotations, for distillation alone."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..errors import ConfigError
from .catalog import load_dataset
from .coco_json import image_size
from .yolo import SUFFIXES

KEY = "DATASETS.UNLABELLED"


def unlabelled_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """Records of the images in ``DATASETS.UNLABELLED``, marked by ``"unlabelled": True``.

    Their supervised losses are multiplied by zero: they are no background.

    Raises:
        ConfigError: no distillation is trained, or an entry has no readable image.
    """
    names = cfg.DATASETS.UNLABELLED
    if names and cfg.MODEL.META_ARCHITECTURE != "Distiller":
        raise ConfigError(
            f"{KEY} is {tuple(names)}, but a plain {cfg.MODEL.META_ARCHITECTURE} learns nothing "
            "from images without annotations: name a teacher, or set it to ()."
        )
    records = [record for name in names for record in _read(name)]
    return [{**x, "annotations": [], "unlabelled": True} for x in records]


def _read(name: str) -> list[dict[str, Any]]:
    if name in DatasetCatalog:
        return load_dataset(name, KEY)
    folder = Path(os.path.expanduser(name))
    files = [x for x in sorted(folder.rglob("*")) if x.suffix.lower() in SUFFIXES]
    if not files:
        raise ConfigError(f"{KEY}: {name!r} is no data set, and no folder that holds images.")
    try:
        with ThreadPoolExecutor(8) as pool:
            sizes = list(pool.map(image_size, files))
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}") from None
    return [
        {"file_name": str(path), "image_id": f"unlabelled/{path}", "width": width, "height": height}
        for path, (width, height) in zip(files, sizes, strict=True)
    ]
