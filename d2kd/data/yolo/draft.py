"""What a missing data.yaml could be."""

from collections.abc import Sequence
from pathlib import Path

from ..image_files import SUFFIXES
from ..split_names import SPLITS, is_split, split_of
from ..tree import Place, files_with
from .matching import NO_LABELS, is_label


def has_labels(place: Place) -> bool:
    """Whether a folder is named ``labels``, or its first text files are labels."""
    files = [x for x in place.with_suffix(".txt") if x.name.lower() not in NO_LABELS]
    return place.folder.name.lower() == "labels" or any(map(is_label, files[:3]))


def draft(folder: Path, places: Sequence[Place]) -> str:
    """One line of yaml with the lists or folders of images and the file of names, as far as found.

    Args:
        folder: of the data set.
        places: the folders below it.
    """
    lists = {split_of(x.stem): x for x in places[0].with_suffix(".txt") if is_split(x.stem)}
    pictured = [x.folder for x in places if x.with_suffix(*SUFFIXES)]
    folders: dict[str, Path] = {}
    for path in pictured:
        parts = reversed(path.relative_to(folder).parts)
        split = next((split_of(part) for part in parts if is_split(part)), "")
        folders.setdefault(split, path)
    found = lists or {x: folders[x] for x in SPLITS if x in folders}
    found = found or {"train": next(iter(pictured), folder / "images" / "train")}
    entries = [f"{x}: {found[x].relative_to(folder).as_posix()}" for x in SPLITS if x in found]
    named = [x for x in files_with(places, ".txt") if x.name.lower() in NO_LABELS]
    named += files_with(places, ".names")
    names = named[0].relative_to(folder).as_posix() if named else "[cat, dog]"
    return f"{{{', '.join(entries)}, names: {names}}}"
