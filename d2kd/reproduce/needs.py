"""What a pair needs before it starts: data, the teacher's weights, room on the disk."""

import os
import shutil
from pathlib import Path
from typing import List, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import ConfigError, MissingFileError
from .costs import Cost
from .pairs import Pair

IMAGES = {"coco_2017_train": 118_287, "coco_2017_val": 5_000}
"""Images of COCO's splits."""


def check_needs(pair: Pair, output: Path, cost: Cost) -> List[str]:
    """What there is of it, in lines.

    Raises:
        MissingFileError: data or converted weights are not there; the message says what to do.
        ConfigError: the disk is too full.
    """
    names = [*pair.cfg.DATASETS.TRAIN, *pair.cfg.DATASETS.TEST]
    lines = [data_line(name) for name in names]
    if (file := pair.teacher_file) and not os.path.isfile(file):
        raise MissingFileError(
            f"{pair.name}: its teacher needs {file}, which is not here: convert mmdetection's "
            f"checkpoint with d2kd convert (docs/reference/detectors.md#teachers-from-mmdetection)."
        )
    lines.append(f"teacher: {pair.teacher}")
    folder = next(x for x in (output, *output.absolute().parents) if x.is_dir())
    free = shutil.disk_usage(folder).free
    if free < cost.disk:
        raise ConfigError(
            f"--output {output}: there are {free / 2**30:.0f} GB free, and the checkpoints take "
            f"{cost.disk / 2**30:.0f}: name another place."
        )
    return lines


def data_line(name: str) -> str:
    """How many images of a split of COCO are there.

    Raises:
        MissingFileError: none.
    """
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else object()
    folder = getattr(metadata, "image_root", "")
    if not os.path.isdir(folder) or not os.path.isfile(getattr(metadata, "json_file", "")):
        raise MissingFileError(
            f"{name}: {folder or 'its folder'} or its annotations are not there: set "
            "DETECTRON2_DATASETS to the folder that has coco/ (datasets/README.md)."
        )
    found, wanted = len(os.listdir(folder)), IMAGES.get(name)
    part = " **a part of it: no AP will compare**" if wanted and found < wanted else ""
    return f"data: {name}, {found:,} images{part and ','}{part}"


def is_whole(names: Sequence[str]) -> bool:
    """Whether all images of these splits are there."""
    roots = (MetadataCatalog.get(name).image_root for name in names)
    counts = [len(os.listdir(root)) for root in roots]
    return all(n >= IMAGES.get(name, 0) for name, n in zip(names, counts, strict=True))
