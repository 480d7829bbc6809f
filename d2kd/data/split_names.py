"""Which split a file or a folder is, by the words of its name."""

import re
from collections.abc import Sequence
from pathlib import Path

SPLITS = ("train", "val", "test")
_WORDS = {
    "train": {"train", "training", "trainset"},
    "val": {"val", "valid", "validation", "valset", "dev", "devel", "development"},
    "test": {"test", "testing", "testset"},
    "trainval": {"trainval"},
}
_SPLIT = {word: split for split, words in _WORDS.items() for word in words}
_FIRST = ("train", "val", "valid", "test", "trainval")  # others may follow: train_small
_NEUTRAL = set(
    "annotation annotations bbox boxes coco data dataset default detection export images img "
    "instance instances json label labels main objects result results set split subset".split()
)


def split_of(name: str) -> str:
    """The split that a name says, in any case: "train", "val", "test", "trainval", or "".

    ``instances_Validation``, ``cells_val2017`` and ``valid_small`` are "val"; ``training_notes``
    and ``train_test`` are nothing.
    """
    words = _words(name)
    named = [word for word in words if word in _SPLIT]
    splits = {_SPLIT[word] for word in named}
    if splits in ({"train", "val"}, {"train", "val", "trainval"}):
        splits = {"trainval"}
    if len(splits) != 1:
        return ""
    telling = [word for word in words if word not in _NEUTRAL]
    fits = set(telling) <= set(named) or telling[0] in _FIRST or telling[-1] in _SPLIT
    return splits.pop() if fits else ""


def folder_split(path: Path, root: Path) -> str:
    """The split that the folders of a file below `root` name, the nearest first, or ""."""
    return nearest_split(path.relative_to(root).parts[:-1])


def nearest_split(folders: Sequence[str]) -> str:
    """The split that the last of these folders names that names one, or ""."""
    return next(filter(None, map(split_of, reversed(folders))), "")


def is_split(name: str) -> bool:
    """Whether a name is a split's and nothing else."""
    return bool(split_of(name)) and set(_words(name)) <= set(_SPLIT)


def says_nothing(name: str) -> bool:
    """Whether a name has only words such as labels, coco and default, or none."""
    return set(_words(name)) <= _NEUTRAL


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return re.findall(r"[^\W\d_]+", spaced.lower())
