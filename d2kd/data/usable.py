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
from .image_problems import FRAMES, image_state
from .listing import warn_of
from .pixels import image_size
from .records import stated_size
from .split_names import folder_split, split_of
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
    paths, at = [split.images / x for x in given], _resolved(split.json)
    meant = split_of(at.stem) or (folder_split(at, root) if at.is_relative_to(root) else "")
    places = [x if x.is_file() else files.find(y, meant, at) or x
              for x, y in zip(paths, given, strict=True)]  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(_state, places, coco["images"]))
    for image, path, place, state in zip(coco["images"], paths, places, states, strict=True):
        if state or place != path:
            found[state or "images are elsewhere than their names say"].append(image["file_name"])
        image["file_name"] = os.path.relpath(_resolved(place), root)
    sizes = {x["id"]: stated_size(x) for x in coco["images"]}
    stop_or_warn(check_annotations(coco, sizes, "").findings, plain(root), name)
    for what, names in found.items():
        warn_of(logger, names, what, f"{name}: ")
    if all(states):
        raise MissingFileError(f"{plain(root)}: no image of {name} can be used, as {paths[0]}.")
    return only(coco, [not state for state in states])


def _resolved(path: Path) -> Path:
    """Without links but a link that is the file: its own name has the suffix."""
    return path.parent.resolve() / path.name


def _state(path: Path, image: dict[str, Any]) -> str:
    """Why an image cannot be used, or "". Where its size is not stated, it is filled in."""
    state = image_state(path, image)
    if state not in ("", FRAMES):
        return f"{state}, and are left out"
    if not stated_size(image):
        image |= dict(zip(("width", "height"), image_size(path), strict=True))
    return ""
