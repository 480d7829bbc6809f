"""Images without annotations, for distillation alone."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..errors import ConfigError
from .catalog import load_dataset
from .image_files import list_images
from .listing import listed
from .pixels import PixelError, image_size

logger = logging.getLogger(__name__)

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
    skip = cfg.DATALOADER.SKIP_BAD_IMAGES
    records = [record for name in names for record in _read(name, skip)]
    return [{**x, "annotations": [], "unlabelled": True} for x in records]


def _read(name: str, skip: bool) -> list[dict[str, Any]]:
    if name in DatasetCatalog:
        return load_dataset(name, KEY)
    files, left_out = list_images(Path(os.path.expanduser(name)))
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(files, pool.map(_size, files), strict=True))
    bad = [x for x in found.values() if isinstance(x, str)]
    if bad and not skip:
        raise ConfigError(
            f"{KEY}: {listed(bad, 'images cannot be read')[0]}. Take them out, or set "
            "DATALOADER.SKIP_BAD_IMAGES True."
        )
    for line in [*left_out, *listed(bad, "images cannot be read and are left out")]:
        logger.warning("%s: %s: %s", KEY, name, line)
    records = [
        {"file_name": str(path), "image_id": f"unlabelled/{path}", "width": x[0], "height": x[1]}
        for path, x in found.items()
        if not isinstance(x, str)
    ]
    if not records:
        raise ConfigError(f"{KEY}: {name!r} is no data set, and no folder that holds images.")
    return records


def _size(path: Path) -> tuple[int, int] | str:
    """Width and height, px, or why there are none."""
    try:
        return image_size(path)
    except PixelError as error:
        return str(error)
