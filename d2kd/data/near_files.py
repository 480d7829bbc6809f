"""Names of image files that are nearly those of files that exist."""

import os
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from .file_names import folded
from .image_files import SUFFIXES


def near_file(folder: str | os.PathLike[str], name: str) -> str:
    """A hint at the file that a missing one may be, to end a sentence with; "" without one.

    Tried are slashes for backslashes, percent encodings written out, composed and decomposed
    letters, other cases and suffixes, and the last part alone, as of paths on another machine.

    Args:
        folder: of the images.
        name: of the file that is missing, from there.
    """
    for candidate in _candidates(name):
        path = os.path.join(folder, candidate)
        if candidate != name and os.path.isfile(path):
            return f" (there is {path})"
    folder, name = os.path.split(os.path.join(folder, name))
    for other in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        is_image = os.path.splitext(other)[1].lower() in SUFFIXES
        if is_image and other != name and folded(other) == folded(name):
            return f" (there is {os.path.join(folder, other)})"
    return ""


def _candidates(name: str) -> Iterator[str]:
    for text in (name, unquote(name)):
        slashed = text.replace("\\", "/")
        for form in (slashed, *(unicodedata.normalize(x, slashed) for x in ("NFC", "NFD"))):
            yield from (form, form.rsplit("/", 1)[-1])
