"""Images on which the ranges of an INT8 file are measured."""

import logging
from pathlib import Path
from typing import Iterable, Iterator, List, Optional

import numpy as np
from detectron2.config import CfgNode

from ..data import load_dataset, register_custom_datasets
from ..data.image_files import list_images
from ..data.pixels import PixelError, read_pixels
from ..errors import ConfigError, MissingFileError
from ..text import plain

COUNT = 64  # images; more change ranges by little


def calibration_images(cfg: CfgNode, folder: Optional[Path] = None) -> Iterator[np.ndarray]:
    """Up to `COUNT` images, evenly spread over a folder or over DATASETS.TRAIN.

    Returns:
        Each (h, w, 3) uint8 in the channel order of INPUT.FORMAT.

    Raises:
        MissingFileError: no such folder, or data that is not here.
        ConfigError: there is no image, or one that cannot be read.
    """
    where = f"--calibrate {folder}" if folder else "DATASETS.TRAIN"
    files = _of_folder(folder) if folder else _of_training(cfg)
    if not files:
        raise ConfigError(
            f"{where}: no image for --int8 to calibrate on; give --calibrate FOLDER with dozens."
        )
    chosen = np.linspace(0, len(files) - 1, min(COUNT, len(files))).round().astype(int)
    return read_images([files[i] for i in chosen], cfg.INPUT.FORMAT, where)


def _of_folder(folder: Path) -> List[Path]:
    if not folder.is_dir():
        raise MissingFileError(f"--calibrate {folder} is no folder.")
    found = list_images(folder)
    for line in found.left_out:
        logging.getLogger(__name__).warning("--calibrate %s: %s", plain(folder), line)
    return found.images


def _of_training(cfg: CfgNode) -> List[Path]:
    try:
        register_custom_datasets(cfg)
        sets = [load_dataset(name, "DATASETS.TRAIN") for name in cfg.DATASETS.TRAIN]
    except MissingFileError as error:
        raise MissingFileError(
            f"--int8 calibrates on DATASETS.TRAIN: {error} Give --calibrate FOLDER."
        ) from error
    return [Path(record["file_name"]) for records in sets for record in records]


def read_images(files: Iterable[str | Path], format: str, where: str) -> Iterator[np.ndarray]:
    """Images (h, w, 3) uint8, read one by one; a ConfigError that begins with `where` if not."""
    for file in files:
        try:
            yield read_pixels(str(file), format)
        except PixelError as error:
            raise ConfigError(f"{where}: {error}") from None
