"""The images of a json file that can be trained on, wherever below a folder they are."""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path
from typing import Any

from ..errors import MissingFileError
from ..text import plain
from .annotation_checks import check_annotations
from .coco_json import read_coco
from .findings import stop_or_warn
from .folder import Split
from .listing import warn_of
from .pixels import PixelError, examine
from .records import stated_size
from .voc.files import ByName

logger = logging.getLogger(__name__)


def only(coco: dict[str, Any], kept: Sequence[bool]) -> dict[str, Any]:
    """A json file's contents without the images at some places, and their annotations."""
    lost = {x["id"] for x, keep in zip(coco["images"], kept, strict=True) if not keep}
    annotations = [a for a in coco["annotations"] if a["image_id"] not in lost]
    return {**coco, "images": list(compress(coco["images"], kept)), "annotations": annotations}


def find_usable(name: str, split: Split, root: Path, files: ByName) -> dict[str, Any]:
    """Read a split without images that are missing, cannot be read, or have another size than said.

    Warnings count them, and those that are found elsewhere than their names say.

    Args:
        name: of the split.
        split: see `read_dataset_folder`.
        root: of the data set, from which the file names start that are returned.
        files: the images below it.

    Raises:
        ConfigError: training would stop at an annotation, or an id.
        MissingFileError: there is no image that can be used.
    """
    coco, found = read_coco(split.json), defaultdict(list)
    given = [x["file_name"] for x in coco["images"]]
    paths = [split.images / x for x in given]
    places = [x if x.is_file() else files.find(y, split.json) or x
              for x, y in zip(paths, given, strict=True)]  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(_state, places, coco["images"]))
    for image, path, place, state in zip(coco["images"], paths, places, states, strict=True):
        if state or place != path:
            found[state or "are elsewhere than their names say"].append(image["file_name"])
        image["file_name"] = os.path.relpath(place.resolve(), root)
    sizes = {x["id"]: stated_size(x) for x in coco["images"]}
    stop_or_warn(check_annotations(coco, sizes, "").findings, plain(root), name)
    for what, names in found.items():
        warn_of(logger, names, f"images {what}", f"{name}: ")
    if all(states):
        raise MissingFileError(f"{plain(root)}: no image of {name} can be used, as {paths[0]}.")
    return only(coco, [not state for state in states])


def _state(path: Path, image: dict[str, Any]) -> str:
    """Why an image cannot be used, or "". Where its size is not stated, it is filled in."""
    if not path.is_file():
        return "do not exist and are left out"
    try:
        width, height, _ = examine(path)
    except PixelError:
        return "cannot be read or are cut off, and are left out"
    if not stated_size(image):
        image |= {"width": width, "height": height}
    return (
        ""
        if stated_size(image) == (width, height)
        else "have another size than their labels say, and are left out"
    )
