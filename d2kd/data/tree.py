"""What lies in a folder and below it, within bounds."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_DEPTH = 4
_FOLDERS = 2_000


class Place(NamedTuple):
    """A folder and the names of its files, sorted; hidden ones are left out."""

    folder: Path
    files: list[str]

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Its files of these suffixes, in any case."""
        return [self.folder / x for x in self.files if x.lower().endswith(suffixes)]


def walk(root: Path, bounded: bool = True) -> list[Place]:
    """A folder and those below it, nearest first.

    Args:
        root: the folder.
        bounded: 4 levels and 2,000 folders at most; else 50 levels.
    """
    places: list[Place] = []
    level = [root]
    for _ in range(_DEPTH + 1 if bounded else 50):
        below: list[Path] = []
        for folder in level[: _FOLDERS - len(places)] if bounded else level:
            files, folders = _entries(folder)
            places.append(Place(folder, files))
            below += [folder / name for name in folders]
        level = below
    return places


def files_with(places: Iterable[Place], *suffixes: str) -> list[Path]:
    """The files of these suffixes, in any case, nearest first."""
    return [path for place in places for path in place.with_suffix(*suffixes)]


def described(places: Iterable[Place], root: Path) -> str:
    """The numbers of files by folder and suffix, the most frequent first, in one line."""
    counts: Counter[str] = Counter()
    for place in places:
        at = place.folder.relative_to(root).as_posix()
        where = "" if at == "." else f" in {at}"
        for name in place.files:
            counts[f"{os.path.splitext(name)[1].lower() or 'without suffix'}{where}"] += 1
    shown = [f"{count:,} {what}" for what, count in counts.most_common(6)]
    return ", ".join(shown + ["..."] * (len(counts) > 6)) or "no file"


def _is_below(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, and no link to one that it is in."""
    if not entry.is_dir():
        return False
    return not (
        entry.is_symlink()
        and f"{os.path.abspath(entry.path)}/".startswith(f"{os.path.realpath(entry.path)}/")
    )


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith((".", "__MACOSX")):
                    (folders if _is_below(entry) else files).append(entry.name)
    except OSError:  # may not be read
        pass
    return sorted(files), sorted(folders)
