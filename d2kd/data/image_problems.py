"""What is wrong with the images of a data set."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .listing import listed, repeated
from .pixels import BitDepthError, PixelError, examine
from .records import stated_size

FRAMES = "images have several frames, of which only the first is read"
_MISSING = "images do not exist"
_CUT_OFF = "images cannot be read or are cut off"
_OTHER_SIZE = "images have another size than stated"
_NO_WHITE = "images hold values of which white is not known, such as 12-bit or floating-point ones"


def image_problems(folder: Path, images: list[dict[str, Any]], read_images: bool) -> list[str]:
    """Files that are listed twice; missing files, and of those that are read the others."""
    problems = listed(repeated(x["file_name"] for x in images), "files are listed more than once")
    state = image_state if read_images else _missing
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda x: state(folder / x["file_name"], x), images))
    found = [(state, image["file_name"]) for state, image in zip(states, images, strict=True)]
    for kind in (_MISSING, _CUT_OFF, _OTHER_SIZE, _NO_WHITE, FRAMES):
        problems += listed((name for state, name in found if state == kind), kind)
    return problems


def image_state(path: Path, image: dict[str, Any]) -> str:
    """What is wrong with an image file, "" if nothing; all but `FRAMES` makes it useless.

    Args:
        path: of the file, which is decoded.
        image: its entry in a json file.
    """
    if not os.path.isfile(path):
        return _MISSING
    try:
        width, height, frames = examine(path)
    except BitDepthError:
        return _NO_WHITE
    except PixelError:
        return _CUT_OFF
    if stated_size(image) not in (None, (width, height)):
        return _OTHER_SIZE
    return FRAMES if frames > 1 else ""


def _missing(path: Path, image: dict[str, Any]) -> str:
    return "" if os.path.isfile(path) else _MISSING
