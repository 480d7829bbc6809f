"""The json files of a folder: which split each is, and where its images are."""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingFileError
from ..file_io import read_head
from ..text import plain
from .listing import listed
from .split_names import SPLITS, folder_split, says_nothing, split_of
from .tree import Place, files_with

logger = logging.getLogger(__name__)

_MANY = 50  # json files of one folder: one for each image, in another format
_HEAD = 2**16  # bytes
_COMPANIONS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")


def coco_files(places: Sequence[Place]) -> list[Path]:
    """The json files that look like COCO's, by their first 64 kB; also those named after a split.

    Files that the COCO data set has beside those of its boxes are left out.
    """
    few = [place for place in places if len(place.with_suffix(".json")) <= _MANY]
    found = [path for path in files_with(few, ".json") if not path.name.startswith(_COMPANIONS)]
    near = places[0].folder
    return [p for p in found if (_rank(p, near) < (2, 0) and split_of(p.stem)) or _looks_right(p)]


def choose_files(folder: Path, found: Sequence[Path], index: Path) -> dict[str, Path]:
    """The json file of each split.

    Files in ``annotations`` go before those in the folder itself, and those before others. A file
    that no split takes is named in a warning, and so is a name that needs an explanation.

    Args:
        folder: of the data set.
        found: see `coco_files`.
        index: the file that could say more.

    Raises:
        ConfigError: two files may be the same split.
    """
    named = {path: _split(path, folder) for path in found}
    chosen = {
        split: _choose(split, [p for p in found if named[p] == split], folder, index)
        for split in (*SPLITS, "trainval")
        if split in named.values()
    }
    if "trainval" in chosen and not chosen.keys() & {"train", "val"}:
        chosen["train"] = chosen["trainval"]
        logger.warning(f"{plain(chosen['train'])} is taken as train.")
    if not chosen.keys() & {*SPLITS} and len(found) == 1:
        chosen["train"] = found[0]
        logger.warning(f"{plain(found[0])} names no split: all of it is train.")
    taken = {split: chosen[split] for split in SPLITS if split in chosen}
    rest = [plain(p.relative_to(folder)) for p in found if p not in taken.values()]
    for line in listed(rest if taken else [], "json files are not read"):
        logger.warning(f"{plain(folder)}: {line}; {INDEX_HELP.format(plain(index))}")
    return taken


INDEX_HELP = "{} could name others, a line for each split: train: {{json: ..., images: ...}}"


def image_folder(path: Path, coco: dict[str, Any], folder: Path, places: Sequence[Place]) -> Path:
    """Where the images of a json file are: in a folder named after it or its split, or elsewhere.

    Args:
        path: the json file.
        coco: what is in it.
        folder: of the data set.
        places: the folders below it.

    Raises:
        MissingFileError: none of the first 20 images is in any of them.
    """
    firsts = [str(image["file_name"]) for image in coco["images"][:20]]
    usual = dict.fromkeys(folder / name for name in _usual_names(path, folder))
    for first in firsts:
        if os.path.isabs(first) and os.path.isfile(first):
            return Path(first).parent
        for at in usual:
            if os.path.isfile(at / first) and os.path.isdir(at):
                return at
    fits = {x.folder: sum(os.path.isfile(x.folder / name) for name in firsts) for x in places}
    best = [at for at, count in fits.items() if count and count == max(fits.values())]
    split = _split(path, folder)
    of_split = [x for x in best if split and split in map(split_of, x.relative_to(folder).parts)]
    if not best:
        raise MissingFileError(_not_found(path, firsts[0], usual, places))
    if len(best) > 1 and len(of_split) != 1:
        logger.warning(
            f"{plain(path)}: its images are in {plain(best[0])} and in {plain(best[1])}; the first "
            "is taken."
        )
    return (of_split or best)[0]


def _usual_names(path: Path, folder: Path) -> Iterator[str]:
    stem, split = path.stem.removeprefix("instances_"), _split(path, folder)
    old = {"val": "valid"}.get(split, split)
    yield from (stem, split or stem, f"images/{stem}", f"images/{split}", "images", "JPEGImages")
    yield from (os.path.relpath(path.parent, folder), "", old, f"images/{old}")


def _not_found(path: Path, first: str, usual: Iterable[Path], places: Sequence[Place]) -> str:
    name = re.split(r"[/\\]", first)[-1]
    elsewhere = [place.folder / name for place in places if name in place.files]
    hint = f" {plain(elsewhere[0])} has its name: correct file_name." if elsewhere else ""
    shown = ", ".join(plain(x) for x in list(usual)[:8])
    return f"{path} names the image {first[:200]!r}, which is in none of {shown}.{hint}"


def _choose(split: str, fitting: Sequence[Path], folder: Path, index: Path) -> Path:
    """The file in the best place that is named after the split, exactly or else alone."""
    best = min(_rank(path, folder) for path in fitting)
    first = [path for path in fitting if _rank(path, folder) == best]
    if len(first) > 1:
        named = " and ".join(str(path.relative_to(folder)) for path in first)
        raise ConfigError(
            f"{named} may both be {split} in {folder}: write {index} that says which, for example "
            f"{split}: {{json: {first[0].relative_to(folder)}, images: images}}"
        )
    return first[0]


def _rank(path: Path, folder: Path) -> tuple[int, int]:
    """Place and name: less is better."""
    parts = [part.lower() for part in path.relative_to(folder).parts[:-1]]
    place = 0 if parts == ["annotations"] else 2 if parts else 1
    split = split_of(path.stem)
    if split:
        return place, int(path.stem.removeprefix("instances_") != split)
    return place, 2 if says_nothing(path.stem) else 3


def _split(path: Path, folder: Path) -> str:
    """By its own name, or else by the nearest folder that is named after a split."""
    return split_of(path.stem) or folder_split(path, folder)


def _looks_right(path: Path) -> bool:
    head = read_head(path, _HEAD)
    text = head.decode(json.detect_encoding(head), "replace").lstrip("\ufeff \t\r\n")
    return text[:1] == "{" and bool(re.search(r'"(images|annotations)"\s*:\s*\[', text))
