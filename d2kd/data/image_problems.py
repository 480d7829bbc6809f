"""What is wrong with the images of a data set."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from .coco_json import image_size
from .listing import listed, repeated

_KINDS = (
    "images do not exist",
    "images cannot be read or are cut off",
    "images have another size than stated",
)


def image_problems(folder: Path, images: list[dict[str, Any]], read_images: bool) -> list[str]:
    """Ids and files that are listed twice; missing files, and of those that are read the others."""
    problems = listed(repeated(x["id"] for x in images), "image ids are used more than once")
    problems += listed(repeated(x["file_name"] for x in images), "files are listed more than once")
    states = _states(folder, images, read_images)
    found = [(state, image["file_name"]) for state, image in zip(states, images, strict=True)]
    for kind in _KINDS:
        problems += listed((name for state, name in found if state == kind), kind)
    return problems


def _states(folder: Path, images: list[dict[str, Any]], read_images: bool) -> list[str]:
    """What is wrong with each image file, "" if nothing."""
    if not read_images:
        return [_missing(folder, image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(partial(_read, folder), images))


def _missing(folder: Path, image: dict[str, Any]) -> str:
    return "" if os.path.isfile(folder / image["file_name"]) else _KINDS[0]


def _read(folder: Path, image: dict[str, Any]) -> str:
    """Decode a file completely, JPEG at an eighth of its size: a cut-off one has its header."""
    if _missing(folder, image):
        return _KINDS[0]
    path = folder / image["file_name"]
    try:
        size = image_size(path)
        with Image.open(path) as file:
            file.draft("L", (1, 1))
            file.load()
    except Exception:  # decoders fail in many ways
        return _KINDS[1]
    return "" if (image.get("width"), image.get("height")) == size else _KINDS[2]
