"""The images that an entry of a data.yaml names: in a folder, or in a list."""

import logging
import os
from pathlib import Path

from ...errors import ConfigError, MissingFileError
from ...file_io import read_text
from ...text import plain
from ..image_files import list_images
from ..listing import warn_of
from .places import nearest

logger = logging.getLogger(__name__)

_MAX_LIST = 2**26  # bytes


def find_images(entries: list[str], root: Path, place: str) -> list[Path]:
    """The images that all entries of a split name, sorted, each once; warnings count others.

    Args:
        entries: folders, and lists of images (.txt).
        root: they start from it, and all images lie in it.
        place: of the entries, for messages.

    Raises:
        ConfigError: an entry is neither; an image is missing or lies outside of the root.
    """
    images: set[Path] = set()
    for entry in entries:
        start = _start(entry, root, place)
        if os.path.isdir(start):
            files, left_out = list_images(start)
            images.update(_inside(path, root) for path in files)
            for line in left_out:
                logger.warning(f"{place}: {plain(line, 400)}.")
        elif start.suffix.lower() == ".txt" and os.path.isfile(start):
            images.update(_inside(path, root) for path in _listed(start, root))
        else:
            raise MissingFileError(
                f"{place}: {start} is no folder of images and no list of them (.txt)."
            )
    if not images:
        raise MissingFileError(f"{place}: {root / entries[0]} holds no images.")
    return sorted(images)


def _start(entry: str, root: Path, place: str) -> Path:
    """Where an entry is; what another machine calls it may be found by its end."""
    given = Path(os.path.normpath(root / entry))
    if os.path.exists(root / entry) and (os.path.isabs(entry) or given.is_relative_to(root)):
        return root / entry
    found = nearest(entry, root)
    if found is None:
        return root / entry
    if not entry.startswith("../") or found != root / entry.removeprefix("../"):
        logger.warning(f"{place}: {plain(entry)} does not exist; {plain(found)} is taken.")
    return found


def _inside(path: Path, root: Path) -> Path:
    given = Path(os.path.normpath(path))
    for place in (given, Path(os.path.realpath(given.parent)) / given.name):
        if place.is_relative_to(root):
            return place
    raise ConfigError(
        f"{given} lies outside of {root}: let path: in the data.yaml name a folder that holds all "
        "images."
    )


def _listed(source: Path, root: Path) -> list[Path]:
    """The images of a list: a path starts at the list, or else at the root."""
    text = read_text(source, _MAX_LIST, "a list")
    names = dict.fromkeys(line.strip() for line in text.split("\n") if line.strip())
    found, moved, missing = [], [], []
    for name in names:
        places = (source.parent / name, root / name)
        path = next((x for x in places if os.path.isfile(x)), None)
        if path is None and (path := nearest(name, root)) and os.path.isfile(path):
            moved.append(f"{name} as {path}")
        if path is None:
            missing.append(places[1])
        found.append(path or places[1])
    if missing:
        inside = [path for path in missing if _inside(path, root)]
        raise MissingFileError(f"{source}: {len(missing):,} images do not exist: {inside[0]}.")
    what = "images are of another machine and taken here"
    warn_of(logger, moved, what, f"{plain(source)}: ")
    return found
