"""Which label file is of which image, and what fits nothing."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ...errors import MissingFileError
from ...file_io import read_head
from ...text import plain
from ..file_names import pairs
from ..image_files import SUFFIXES
from ..listing import listed
from ..tree import walk

logger = logging.getLogger(__name__)

_HEAD = 200  # bytes
NO_LABELS = {"classes.txt", "labels.txt", "predefined_classes.txt"}


class _Labels(dict[Path, dict[str, Path]]):
    """The text files of each folder that is asked for, by their names without suffix."""

    def __missing__(self, folder: Path) -> dict[str, Path]:
        names = [x for x in sorted(_names(folder)) if x.lower().endswith(".txt")]  # .txt the last
        files = [path for name in names if (path := folder / name).is_file()]
        self[folder] = {path.stem: path for path in files}
        return self[folder]


def label_path(image: Path, root: Path, labels: _Labels) -> Path:
    """Where an image's labels are: its last folder ``images`` is ``labels``, the suffix .txt.

    Its case does not count. Where there is no such file, but one beside the image, it is that.
    """
    parts = image.relative_to(root).parts
    last = max((i for i, x in enumerate(parts[:-1]) if x.lower() == "images"), default=None)
    folders = [image.parent]
    if last is not None:
        before = root.joinpath(*parts[:last])
        name = "labels" if parts[last] == "images" or not (before / "Labels").is_dir() else "Labels"
        folders.insert(0, before.joinpath(name, *parts[last + 1 : -1]))
    there = [labels[folder][image.stem] for folder in folders if image.stem in labels[folder]]
    return there[0] if there else folders[0] / f"{image.stem}.txt"


def match_labels(found: dict[str, list[Path]], root: Path) -> dict[str, list[Path | None]]:
    """The label file of each image, None where it has none.

    A file whose name is only written differently is taken if no other is like it. Warnings count,
    for each split, images without labels and labels without an image.

    Raises:
        MissingFileError: no image of train has labels.
    """
    labels = _Labels()
    expected = {split: [label_path(x, root, labels) for x in y] for split, y in found.items()}
    claimed = {path for paths in expected.values() for path in paths}
    return {
        split: _match(split, found[split], paths, claimed, root)
        for split, paths in expected.items()
    }


def _match(
    split: str, images: list[Path], expected: list[Path], claimed: set[Path], root: Path
) -> list[Path | None]:
    bare = [path for path in expected if not path.is_file()]
    orphans = _orphans(images, expected, claimed)
    claimed.update(orphans)  # another split of the same folder does not count them again
    taken = _pair(bare, orphans)
    for line in listed(
        (f"{plain(x.name)} for {plain(path.stem)}" for path, x in taken.items()),
        "label files are taken whose names are written differently",
    ):
        logger.warning(f"{split}: {line}")
    paths = [path if path.is_file() else taken.get(path) for path in expected]
    if split == "train" and not any(paths):
        raise MissingFileError(_no_labels(images, expected[0], root))
    lost = [path for path in orphans if path not in taken.values()]
    _say(split, paths.count(None), len(paths), lost)
    return paths


def _pair(bare: Iterable[Path], orphans: Iterable[Path]) -> dict[Path, Path]:
    """Paths that do not exist with the file in their folder that is named almost so."""
    folders: dict[Path, tuple[dict[str, Path], dict[str, Path]]] = {}
    for side, paths in enumerate((bare, orphans)):
        for path in paths:
            folders.setdefault(path.parent, ({}, {}))[side][path.stem] = path
    return {
        left[ours]: right[theirs]
        for left, right in folders.values()
        for ours, theirs in pairs(left, right).items()
    }


def _orphans(images: list[Path], expected: list[Path], claimed: set[Path]) -> list[Path]:
    """Label files in the folders of a split's labels that are of no image there, listed or not."""
    stems: dict[Path, set[str]] = {}
    for image_folder, folder in {
        (image.parent, label.parent) for image, label in zip(images, expected, strict=True)
    }:
        names = stems.setdefault(folder, set())
        parted = map(os.path.splitext, _names(image_folder))
        names |= {stem for stem, suffix in parted if suffix.lower() in SUFFIXES}
    roots = [x for x in stems if not any(other in stems for other in x.parents)]
    files = [
        x for folder in roots for y in walk(folder, bounded=False) for x in y.with_suffix(".txt")
    ]
    return [path for path in sorted(files) if path not in claimed
            and (path.stem not in stems.get(path.parent, ()) or path.with_suffix(".txt") in claimed)
            and is_label(path)]  # fmt: skip


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def is_label(path: Path) -> bool:
    """Whether its first line is numbers, at least five."""
    if path.name.lower() in NO_LABELS:
        return False
    first = read_head(path, _HEAD).decode("utf-8-sig", "replace").strip().split("\n")[0]
    try:
        return len([float(word) for word in first.replace(",", " ").split()[:5]]) == 5
    except ValueError:
        return False


def _say(split: str, bare: int, count: int, lost: list[Path]) -> None:
    said = []
    if bare:
        said.append(f"{bare:,} of {count:,} {split} images have no label file (background)")
    if lost:
        where = "" if bare else f" of {split}"
        said.append(f"{len(lost):,} label files{where} fit no image, for example {plain(lost[0])}")
    if said:
        logger.warning("; ".join(said))


def _no_labels(images: list[Path], label: Path, root: Path) -> str:
    named = (x for x in walk(root) if label.name in x.files)
    hint = next((f" {x.folder / label.name} has its name." for x in named), "")
    return (
        f"none of the {len(images):,} images of train has a label file: {label} does not exist, "
        f"for example.{hint}"
    )
