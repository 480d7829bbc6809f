"""Convert a data set in YOLO's layout to COCO json files, one per split.

Reads the ``data.yaml`` that names ``path``, ``train``, ``val``, ``test`` and ``names``, the label
files ``labels/**/ID.txt`` beside ``images/**/ID.jpg`` and the header of each image. A line is
``class x y width height``, the box's centre and size in parts of the image, or a polygon ``class x
y x y x y ...``, which is kept with the box around it. Where data.yaml has ``kpt_shape``, key points
follow the box; they are left out. An image without a label file has no objects.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ...errors import ConfigError, MissingFileError
from ...file_io import expect
from ...text import plain
from ..coco_json import write_splits
from ..listing import warn_of
from ..sizes import image_sizes
from ..tree import walk
from .data_yaml import find_data_yaml, image_root, read_data_yaml, read_entries, read_names
from .draft import draft
from .images import find_images
from .labels import LabelReader
from .matching import match_labels

logger = logging.getLogger(__name__)


def yolo_to_coco(
    data_yaml: Path, output: Path, needed: Sequence[str] = ("train", "val")
) -> dict[str, Path]:
    """Convert the splits that a data.yaml names; warnings count what is left out or changed.

    Args:
        data_yaml: the file, or the folder that holds it.
        output: where to write ``instances_SPLIT.json``; made if needed.
        needed: splits without whose images the set is refused; others are left out then.

    Returns:
        The json file of each split; file names in them are relative to `image_root`.

    Raises:
        ConfigError: a file is missing or cannot be read; the message has its name and line. Or see
            `write_splits`.
    """
    path = find_data_yaml(data_yaml)
    if data_yaml.is_dir() and not path.is_file():
        raise MissingFileError(
            f"{path} does not exist. Write it, for example {draft(data_yaml, walk(data_yaml))}"
        )
    expect(path, "DATA_YAML", "yolo")
    try:
        images, classes = _read(path, needed)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{path}: {reason[:300]}") from None
    paths = {split: output / f"instances_{split}.json" for split in images}
    return write_splits(paths, images, classes)


def _read(path: Path, needed: Sequence[str]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The images of each split, as `write_coco` takes them, and the classes."""
    data, root = read_data_yaml(path), image_root(path)
    reader = LabelReader(read_names(data, path), "kpt_shape" in data)
    given = str(data.get("path") or ".")
    if not os.path.isdir(path.resolve().parent / os.path.expanduser(given)):
        logger.warning(f"{plain(path)}: path: {plain(given)} is taken as {plain(root)}.")
    found = _find(read_entries(data, path), root, path, needed)
    labels = match_labels(found, root)
    images = {
        split: list(_read_images(split, dict(zip(x, labels[split], strict=True)), root, reader))
        for split, x in found.items()
    }
    reader.finish()
    for a, b in combinations(found, 2):
        both = sorted({*found[a]} & {*found[b]})
        warn_of(logger, both, f"images are in {a} and in {b}")
    return images, reader.classes


def _find(
    entries: dict[str, list[str]], root: Path, path: Path, needed: Sequence[str]
) -> dict[str, list[Path]]:
    """The images of each split; one that is not there is left out if it is not needed."""
    found = {}
    for split, places in entries.items():
        try:
            found[split] = find_images(places, root, f"{path}, {split}")
        except MissingFileError as error:
            if split in needed or len(entries) == 1:
                raise
            logger.warning(f"{split} is left out: {plain(error, 300)}")
    return found


def _read_images(
    split: str, labels: dict[Path, Path | None], root: Path, reader: LabelReader
) -> Iterator[dict[str, Any]]:
    for path, (width, height) in image_sizes(split, list(labels)).items():
        image = {"file_name": path.relative_to(root).as_posix(), "width": width, "height": height}
        yield image | reader.read(labels[path], width, height)
