"""Which images are in a split: by a list in ``ImageSets/Main``, or by folders."""

import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConfigError, MissingFileError
from ...file_io import read_text
from ..split_names import SPLITS, is_split, split_of
from .files import ByName

_MAX_LIST = 2**26  # bytes
_PAIR = re.compile(r"(.+\.\w{2,5})[\s,;]+(\S.*\.\w{2,5})")
_FLAG = re.compile(r"(.*\S)\s+([-+]?[01])")


def find_lists(root: Path, asked: Sequence[str]) -> dict[str, Path]:
    """The list of each split.

    Args:
        root: of the data set.
        asked: names of lists, maybe ``val=NAME``; those named after splits if empty. ``trainval``
            is train where there is no list of train.

    Raises:
        ConfigError: a list is missing, names no split, or two name the same.
    """
    folders = (root / "ImageSets" / "Main", root / "ImageSets", root)
    if asked:
        return _asked_lists(folders, asked)
    for folder in folders:
        lists = sorted(x for x in folder.glob("*.*") if x.suffix.lower() == ".txt")
        found = [path for path in lists if is_split(path.stem)]
        if found:
            return {split_of(path.stem): path for path in found} | {
                split_of(path.stem): path for path in found if path.stem in (*SPLITS, "trainval")
            }
    return {}


def _asked_lists(folders: Sequence[Path], asked: Sequence[str]) -> dict[str, Path]:
    lists: dict[str, Path] = {}
    for text in asked:
        given, _, name = text.rpartition("=")
        places = [folder / f"{name}{x}" for folder in folders for x in (".txt", ".TXT")]
        path, split = next(filter(Path.is_file, places), None), given or split_of(name)
        split = "train" if split == "trainval" else split
        if path is None:
            where = ", ".join(map(str, folders))
            raise MissingFileError(f"--splits {text}: there is no {name}.txt in any of {where}.")
        if split not in SPLITS or split in lists:
            raise ConfigError(
                f"--splits {text}: say which split it is, once: train={name}, val={name} or "
                f"test={name}."
            )
        lists[split] = path
    return lists


def read_list(
    path: Path, images: ByName, annotations: ByName
) -> list[tuple[str, Path | None, Path | None]]:
    """The lines of a list, in its order, each with its image and its xml file.

    A line is an ID, a file's name or path, with VOC's 1, 0 or -1 behind it or the name of the xml
    file. The same line twice counts once.

    Raises:
        ConfigError: the file is too large for a list.
    """
    text = read_text(path, _MAX_LIST, "a list")
    lines = dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())
    split = split_of(path.stem)
    return [(line, *_read_line(line, split, images, annotations)) for line in lines]


def _read_line(
    line: str, split: str, images: ByName, xmls: ByName
) -> tuple[Path | None, Path | None]:
    name, other = line, ""
    if not images.exact(line) and (match := _PAIR.fullmatch(line)):
        name, other = match[1], match[2]
    elif not images.exact(line) and (match := _FLAG.fullmatch(line)):
        name = match[1]
    image = images.find(name, split)
    if other.lower().endswith(".xml"):
        return image, xmls.find(other, split)
    key = image.relative_to(images.root).with_suffix("").as_posix() if image else name
    return image, xmls.exact(key) or xmls.find(key, split)
