"""What a pair needs before it starts: data, the teacher's weights, room on the disk."""

import os
import shutil
from pathlib import Path
from typing import List, Sequence, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import ConfigError, MissingFileError
from .costs import Cost
from .pairs import WEIGHTS, Pair

IMAGES = {"coco_2017_train": 118_287, "coco_2017_val": 5_000}
"""Images of COCO's splits."""


def check_needs(pair: Pair, output: Path, cost: Cost, options: Sequence[str] = ()) -> List[str]:
    """What there is of it, in lines.

    Args:
        pair: published.
        output: folder of all pairs.
        cost: of what is still to be trained.
        options: KEY VALUE pairs of all trainings.

    Raises:
        MissingFileError: data or weights are not there; the message says what to do.
        ConfigError: COCO is not complete, or the disk is too full.
    """
    lines = []
    for name in (*pair.cfg.DATASETS.TRAIN, *pair.cfg.DATASETS.TEST):
        found, wanted = count_images(name), IMAGES.get(name, 0)
        if found < wanted:
            raise ConfigError(
                f"{name} has {found:,} of its {wanted:,} images, so no AP would compare. For a "
                f"trial: d2kd reproduce {pair.name} --dry-run"
            )
        lines.append(f"data: {name}, {found:,} images")
    lines.append(f"teacher: {_teacher(pair, options)}")
    free = shutil.disk_usage(_there(output)).free
    if free < cost.disk:
        raise ConfigError(
            f"--output {output}: there are {free / 2**30:.0f} GB free, and the checkpoints take "
            f"{cost.disk / 2**30:.0f}: name another place."
        )
    return lines


def _teacher(pair: Pair, options: Sequence[str]) -> str:
    """Where it comes from."""
    if WEIGHTS in options[::2]:
        return f"{pair.teacher_config}, with the {WEIGHTS} that were typed"
    if pair.lacks_teacher():
        return f"{pair.teacher_config}, which is trained first"
    file = pair.teacher_file
    if file and not os.path.isfile(file):
        raise MissingFileError(
            f"{pair.name}: its teacher ({pair.teacher}) needs {file}, converted by d2kd convert "
            "(docs/reference/detectors.md#teachers-from-mmdetection). Converted elsewhere already? "
            f"Add {WEIGHTS} \"('FILE',)\"."
        )
    return file or f"{pair.teacher_config}, {pair.teacher}"


def _there(output: Path) -> Path:
    return next(x for x in (output, *output.absolute().parents) if x.is_dir())


def count_images(name: str) -> int:
    """How many images of a split of COCO are there.

    Raises:
        MissingFileError: none.
    """
    folder, annotations = places(name)
    if not os.path.isdir(folder) or not os.path.isfile(annotations):
        raise MissingFileError(
            f"{name}: {folder or 'its folder'} or its annotations are not there: set "
            "DETECTRON2_DATASETS to the folder that has coco/ (datasets/README.md)."
        )
    return len(os.listdir(folder))


def places(name: str) -> Tuple[str, str]:
    """Folder of images and file of annotations of a split, "" where it is not known."""
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else object()
    return getattr(metadata, "image_root", ""), getattr(metadata, "json_file", "")
