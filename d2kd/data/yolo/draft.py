"""What a missing data.yaml could be."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import ConfigError
from ...file_io import read_json
from ..image_files import SUFFIXES
from ..split_names import SPLITS, is_split, split_of
from ..tree import Place, files_with
from .matching import NO_LABELS, is_label

_NOTES = "notes.json"  # Label Studio's


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
    data = _entries(folder, places) | {"names": _names(folder, places) or ["cat", "dog"]}
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=True, width=float("inf"))
    return text.strip()


def write_draft(folder: Path, places: Sequence[Place], path: Path) -> None:
    """Write the data.yaml that a folder lacks to another place.

    Raises:
        ConfigError: no file names the classes.
    """
    names = _names(folder, places)
    if not names:
        raise ConfigError(
            f"{folder} is in YOLO's layout, but no file names its classes: write "
            f"{folder / 'classes.txt'} with a name on each line, in the order of their numbers."
        )
    names = str(folder.resolve() / names) if isinstance(names, str) else names
    data = _entries(folder, places) | {"names": names, "path": str(folder.resolve())}
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")


def _entries(folder: Path, places: Sequence[Place]) -> dict[str, Any]:
    """The lists, or else the folders, of each split; all is train where no name says a split."""
    lists = {split_of(x.stem): x for x in places[0].with_suffix(".txt") if is_split(x.stem)}
    if found := {x: lists[x].name for x in SPLITS if x in lists}:
        return found
    pictured = [x.folder for x in places if x.with_suffix(*SUFFIXES)]
    folders: dict[str, list[Path]] = {}
    for path in pictured:
        parts = reversed(path.relative_to(folder).parts)
        split = next((split_of(part) for part in parts if is_split(part)), "")
        if not {*path.parents} & {*folders.setdefault(split, [])}:
            folders[split].append(path)
    chosen = {x: folders[x] for x in SPLITS if x in folders}
    chosen = chosen or {"train": folders.get("") or [folder / "images" / "train"]}
    named = {x: [y.relative_to(folder).as_posix() for y in chosen[x]] for x in chosen}
    return {x: y[0] if len(y) == 1 else y for x, y in named.items()}


def _names(folder: Path, places: Sequence[Place]) -> str | list[str]:
    """The file of names, from the folder on; or the names that Label Studio notes; or none."""
    named = [x for x in files_with(places, ".txt") if x.name.lower() in NO_LABELS]
    if named := named + files_with(places, ".names"):
        return named[0].relative_to(folder).as_posix()
    notes = next((x for x in files_with(places, ".json") if x.name == _NOTES), None)
    data = read_json(notes) if notes else {}
    listed = data.get("categories") if isinstance(data, dict) else None
    found = [x for x in listed or [] if isinstance(x, dict) and type(x.get("id")) is int]
    return [str(x.get("name")) for x in sorted(found, key=lambda x: x["id"])]
