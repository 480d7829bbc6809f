"""The splits of a data set's folder, found by its layout."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import ConfigError, MissingFileError
from ..file_io import kind_of, write_atomically
from ..text import plain
from .coco_files import choose_files, coco_files, image_folder
from .coco_json import classes_in_order, read_coco
from .layouts import advice, convert_first
from .split_names import SPLITS
from .tree import Place, walk
from .yolo import read_data_yaml

INDEX = "dataset.yaml"
UNDIVIDED = "nothing to test on until d2kd distill or d2kd data --output NEW divides it"
_EXAMPLE = "train: {json: train.json, images: images}"


class Split(NamedTuple):
    """One split in COCO's json format: its file, its image folder, its class names by id."""

    json: Path
    images: Path
    classes: list[str]


def read_dataset_folder(folder: Path, anywhere: bool = False) -> dict[str, Split]:
    """Find "train", "val" and "test" in a folder, as far as they exist.

    What `write_index` wrote; or else json files whose name, or whose folder's, says the split, as
    in ``annotations/instances_train2017.json``, ``Validation.json`` and ``train/labels.json``; or
    the only json file there is, as train. Images are looked for by the first file names in the json
    file: in folders named after the split, ``images`` and ``JPEGImages``, then in all others.

    Args:
        folder: of the data set, or its ``dataset.yaml``.
        anywhere: whether `folder` stands for the images of which none of the first is found.

    Raises:
        ConfigError: none of them, with what was found; for YOLO's and VOC's layouts with the
            command that converts them.
    """
    folder = Path(os.path.expanduser(folder))
    kind = None if os.path.isdir(folder) or is_index(folder) else kind_of(folder)
    if kind and kind.group != "yolo":
        raise ConfigError(f"{plain(folder)} is {kind.what}: {kind.use}.")
    if os.path.isfile(folder) and folder.suffix in (".yaml", ".yml"):
        if not is_index(folder):
            raise ConfigError(convert_first(folder, "yolo"))
        folder = folder.parent
    if os.path.isfile(folder):
        raise ConfigError(f"{folder} is a file: give the folder that holds it.")
    if not os.path.isdir(folder):
        raise MissingFileError(f"{folder}: there is no such folder.")
    if (folder / INDEX).is_file() and "names" not in read_data_yaml(folder / INDEX):
        return _read_index(folder)
    places = walk(folder)
    found = coco_files(places)
    chosen = choose_files(folder, found, folder / INDEX)
    if not chosen:
        raise ConfigError(advice(folder, places, found))
    return {name: _read_split(path, folder, places, anywhere) for name, path in chosen.items()}


def write_index(folder: Path, splits: dict[str, Path], images: Path) -> Path:
    """Write ``dataset.yaml`` into a folder: json files there and their common image folder.

    Raises:
        ConfigError: a ``dataset.yaml`` of another kind is there; it is left as it is.
    """
    check_index(folder)
    root = os.path.relpath(images.resolve(), folder.resolve())
    data = {split: {"json": path.name, "images": root} for split, path in splits.items()}
    text = yaml.safe_dump(data, sort_keys=False)
    write_atomically(folder / INDEX, lambda file: file.write_text(text, encoding="utf-8"))
    return folder / INDEX


def check_index(folder: Path) -> None:
    """Raise a ConfigError if a folder has a ``dataset.yaml`` of another kind."""
    path = folder / INDEX
    if path.exists() and not is_index(path):
        raise ConfigError(f"{path} exists and is not d2kd's: choose another folder to write to.")


def is_index(path: Path) -> bool:
    """Whether a file is a ``dataset.yaml`` as `write_index` writes it."""
    return path.is_file() and path.name == INDEX and _holds_splits(read_data_yaml(path))


def _holds_splits(data: dict[str, Any]) -> bool:
    entries = [x for x in data.values() if isinstance(x, dict) and set(x) == {"json", "images"}]
    return bool(data) and len(entries) == len(data) and set(data) <= set(SPLITS)


def _read_index(folder: Path) -> dict[str, Split]:
    data = read_data_yaml(folder / INDEX)
    if not _holds_splits(data):
        raise ConfigError(
            f"{folder / INDEX}: expected train, val, test with json and images, for example "
            f"{_EXAMPLE}"
        )
    splits = {}
    for name in (name for name in SPLITS if name in data):
        path = folder / str(data[name]["json"])
        images = Path(os.path.normpath(folder.resolve() / str(data[name]["images"])))
        splits[name] = Split(path, images, _class_names(read_coco(path)))
    return splits


def _read_split(path: Path, folder: Path, places: list[Place], anywhere: bool) -> Split:
    coco = read_coco(path)
    try:
        images = image_folder(path, coco, folder, places)
    except MissingFileError:
        if not anywhere:
            raise
        images = folder
    return Split(path, images, _class_names(coco))


def _class_names(coco: dict[str, Any]) -> list[str]:
    return list(classes_in_order(coco).values())
