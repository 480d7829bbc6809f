"""Paths of another machine, found by their ends."""

import os
from pathlib import Path, PureWindowsPath

_COMMON = {"images", "image", "imgs", "img", "data", "dataset", "jpegimages"}


def nearest(path: str, folder: Path) -> Path | None:
    """The longest end of a path that is there in a folder, or None.

    Of ``/content/cells/train/images`` it is ``train/images``, but never ``images`` alone, which
    may be those of any split.
    """
    parts = [x for x in PureWindowsPath(path).parts if x not in ("..", ".", "/", "\\")]
    parts = [x for x in parts if not x.endswith((":", ":\\", ":/"))]
    for start in range(len(parts)):
        end = parts[start:]
        if start and len(end) == 1 and end[0].lower() in _COMMON:
            return None
        if os.path.exists(folder.joinpath(*end)):
            return folder.joinpath(*end)
    return None
