"""The images and xml files of a folder in Pascal VOC's layout, or in one that is like it."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ...errors import ConfigError, MissingFileError
from ...file_io import expect, read_head
from ...text import plain
from ..file_names import folded, without_suffix
from ..image_files import list_images
from ..split_names import folder_split, nearest_split, split_of
from ..tree import Place, files_with, walk

logger = logging.getLogger(__name__)

_HEAD = 2**12  # bytes


class Files(NamedTuple):
    """What a folder holds."""

    root: Path
    images: "ByName"
    annotations: "ByName"


def image_root(folder: Path) -> Path:
    """The folder that the file names of `voc_to_coco` start from: ``JPEGImages`` if it is there."""
    root = find_root(folder)
    return root / "JPEGImages" if (root / "JPEGImages").is_dir() else root


def find_root(folder: Path) -> Path:
    """The folder itself, or the only one in it that has ``Annotations``, as in ``VOCdevkit``.

    Raises:
        MissingFileError: there is no such folder.
        ConfigError: several have.
    """
    if not folder.is_dir():
        expect(folder, "FOLDER")
        raise MissingFileError(f"{folder}: there is no such folder.")
    if (folder / "Annotations").is_dir() or (folder / "JPEGImages").is_dir():
        return folder
    below = [path.parent for path in sorted(folder.glob("*/Annotations")) if path.is_dir()]
    below = [path for path in below if not split_of(path.name)]
    if len(below) > 1:
        named = " and ".join(map(str, below[:3]))
        raise ConfigError(f"{folder} holds several data sets: convert one of {named}.")
    return below[0] if below else folder


def find_files(folder: Path) -> Files:
    """Images and annotation files of ``JPEGImages`` and ``Annotations``, or of the whole folder."""
    root, images = find_root(folder), image_root(folder)
    xmls = root / "Annotations" if (root / "Annotations").is_dir() else root
    found, left_out = list_images(images)
    for line in left_out:
        logger.warning(f"{plain(images)}: {plain(line, 400)}.")
    annotations = files_with(walk(xmls, bounded=False), ".xml")
    if xmls == root:
        annotations = [path for path in annotations if _looks_right(path)]
    return Files(root, ByName(found, images), ByName(sorted(annotations), xmls))


def has_annotations(place: Place) -> bool:
    """Whether a folder is VOC's ``Annotations``, or holds a xml file like those in it."""
    xmls = place.with_suffix(".xml")
    return place.folder.name == "Annotations" or any(map(_looks_right, xmls[:1]))


class ByName:
    """Files found by what a list or another file calls them."""

    def __init__(self, paths: Iterable[Path], root: Path) -> None:
        """Paths below `root`; of two that differ in their suffix alone the last has their ID."""
        self.root, self.paths = root, list(paths)
        self.renamed: dict[Path, str] = {}
        """Files that were found although they are written differently, and what was looked for."""
        self._ids: dict[str, Path] = {}
        self._names: dict[str, dict[Path, Path]] = defaultdict(dict)
        self._stems: dict[str, dict[Path, Path]] = defaultdict(dict)
        self._folded: dict[str, dict[Path, Path]] = defaultdict(dict)
        for path in self.paths:
            key = path.relative_to(root).with_suffix("")
            self._ids[key.as_posix()] = path
            self._names[path.name][path] = path
            self._stems[key.name][key] = path
            self._folded[folded(path.name)][key] = path

    def exact(self, name: str) -> Path | None:
        """A file's path below the root without its suffix, or with it."""
        text = name.replace("\\", "/")
        named = self._names.get(PurePosixPath(text).name, {}).get(self.root / text)
        return self._ids.get(text) or named or self._ids.get(without_suffix(text))

    def hidden(self) -> dict[Path, Path]:
        """The files whose ID means another, and that other."""
        ids = {path: path.relative_to(self.root).with_suffix("") for path in self.paths}
        return {x: y for x, key in ids.items() if (y := self._ids[key.as_posix()]) != x}

    def find(self, name: str, split: str = "", beside: Path | None = None) -> Path | None:
        """The file with this name, with the longest end of this path, or with a name like it.

        Args:
            name: a path, maybe of another machine, with or without a suffix.
            split: a file is not taken for one in another folder if its folders name another split
                than this, or than the name's; of several files, one whose folders name it is.
            beside: of several files, one in this one's folder is taken before those.
        """
        parts = PurePosixPath(name.strip().strip("\"'").replace("\\", "/")).parts
        for start in range(len(parts)):
            if found := self.exact("/".join(parts[start:])):
                return found
        last = parts[-1] if parts else ""
        stem = without_suffix(last)
        splits = split, nearest_split(parts[:-1])
        for group in (self._stems.get(last), self._names.get(last), self._stems.get(stem)):
            if found := self._only(group, splits, beside):
                return found
        if found := self._only(self._folded.get(folded(last)), splits, beside):
            self.renamed[found] = name
        return found

    def _only(
        self, group: dict[Path, Path] | None, splits: tuple[str, str], beside: Path | None
    ) -> Path | None:
        found = {path: folder_split(path, self.root) for path in (group or {}).values()}
        paths = [x for x, own in found.items() if all(_fits(own, split) for split in splits)]
        if len(paths) > 1:
            near = [path for path in paths if beside and path.parent == beside.parent]
            paths = near or [path for path in paths if found[path] == (splits[0] or splits[1])]
        return paths[0] if len(paths) == 1 else None


def _fits(ours: str, theirs: str) -> bool:
    """Whether a file of one split may be of the other; trainval is train and val, "" is any."""
    return ours in theirs or theirs in ours


def _looks_right(path: Path) -> bool:
    head = read_head(path, _HEAD)
    return bool(re.search(rb"<annotation[\s/>]", head.replace(b"\0", b"")))  # UTF-16 among them
