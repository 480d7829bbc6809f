"""What is wrong with the images of a data set."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from .listing import listed, repeated
from .pixels import BitDepthError, PixelError, examine

_KINDS = (
    "images do not exist",
    "images cannot be read or are cut off",
    "images have another size than stated",
    "images hold values of which white is not known, such as 12-bit or floating-point ones",
    "images have several frames, of which only the first is read",
)


def image_problems(folder: Path, images: list[dict[str, Any]], read_images: bool) -> list[str]:
    """Files that are listed twice; missing files, and of those that are read the others."""
    problems = listed(repeated(x["file_name"] for x in images), "files are listed more than once")
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
    if _missing(folder, image):
        return _KINDS[0]
    try:
        width, height, frames = examine(folder / image["file_name"])
    except BitDepthError:
        return _KINDS[3]
    except PixelError:
        return _KINDS[1]
    if (image.get("width"), image.get("height")) not in ((width, height), (None, None)):
        return _KINDS[2]
    return _KINDS[4] if frames > 1 else ""
