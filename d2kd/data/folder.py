"""The splits of a data set's folder, found by its layout."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import ConfigError, MissingFileError
from .coco_json import read_coco
from .layouts import advice, convert_first
from .yolo import read_data_yaml

INDEX = "dataset.yaml"
SPLITS = ("train", "val", "test")
_EXAMPLE = "train: {json: train.json, images: images}"
_SPLIT = re.compile(r"^(?:instances_)?(train|val|valid|test)(?![a-zA-Z])[\w-]*$")


class Split(NamedTuple):
    """One split in COCO's json format: its file, its image folder, its class names by id."""

    json: Path
    images: Path
    classes: list[str]


def read_dataset_folder(folder: Path) -> dict[str, Split]:
    """Find "train", "val" and "test" in a folder, as far as they exist.

    Layouts, the first that fits: what `write_index` wrote; ``annotations/instances_SPLIT*.json``;
    ``SPLIT*.json``; ``SPLIT/_annotations.coco.json``. Images are looked for in folders named after
    the split, ``images`` and ``JPEGImages``, by the first file names in the json file.

    Raises:
        ConfigError: none of them; for YOLO's and VOC's layouts with the command that converts them.
    """
    folder = Path(os.path.expanduser(folder))
    if os.path.isfile(folder) and folder.suffix in (".yaml", ".yml"):
        if not _is_index(folder):
            raise ConfigError(convert_first(folder, "yolo"))
        folder = folder.parent
    if not os.path.isdir(folder):
        raise MissingFileError(f"--data {folder}: there is no such folder.")
    if (folder / INDEX).is_file() and "names" not in read_data_yaml(folder / INDEX):
        return _read_index(folder)
    found = {name: _read_split(path, folder) for name, path in _json_files(folder).items()}
    if not found:
        raise ConfigError(advice(folder))
    return found


def write_index(folder: Path, splits: dict[str, Path], images: Path) -> Path:
    """Write ``dataset.yaml`` into a folder: json files there and their common image folder.

    Raises:
        ConfigError: a ``dataset.yaml`` of another kind is there; it is left as it is.
    """
    path = folder / INDEX
    if path.exists() and not _is_index(path):
        raise ConfigError(f"{path} exists and is not d2kd's: choose another folder to write to.")
    root = os.path.relpath(images.resolve(), folder.resolve())
    data = {split: {"json": path.name, "images": root} for split, path in splits.items()}
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def _is_index(path: Path) -> bool:
    return path.name == INDEX and _holds_splits(read_data_yaml(path))


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


def _json_files(folder: Path) -> dict[str, Path]:
    """The json file of each split, by the first pattern that finds any."""
    for pattern in ("annotations/*.json", "*.json", "*/_annotations.coco.json"):
        found = [path for path in sorted(folder.glob(pattern)) if _split_name(path)]
        if found:
            names = {_split_name(path) for path in found}
            return {name: _choose(name, found, folder) for name in SPLITS if name in names}
    return {}


def _choose(split: str, found: list[Path], folder: Path) -> Path:
    """The only file of a split, or else the one that is named after it exactly."""
    fitting = [path for path in found if _split_name(path) == split]
    exact = [path for path in fitting if path.stem.removeprefix("instances_") == split]
    if len(fitting) > 1 and len(exact) != 1:
        named = " and ".join(str(path.relative_to(folder)) for path in fitting)
        raise ConfigError(
            f"{named} may both be {split} in {folder}: write {folder / INDEX} that says which, for "
            f"example {_EXAMPLE}"
        )
    return (exact or fitting)[0]


def _split_name(path: Path) -> str:
    name = path.parent.name if path.name == "_annotations.coco.json" else path.stem
    match = _SPLIT.match(name)
    return {"valid": "val"}.get(match[1], match[1]) if match else ""


def _read_split(path: Path, folder: Path) -> Split:
    coco = read_coco(path)
    stem = path.stem.removeprefix("instances_")
    names = [stem, _split_name(path), f"images/{stem}", f"images/{_split_name(path)}", "images",
             "JPEGImages", path.parent.name, ""]  # fmt: skip
    firsts = [image["file_name"] for image in coco["images"][:20]]
    for first in firsts:
        for name in dict.fromkeys(names):
            if os.path.isfile(folder / name / first):
                return Split(path, folder / name, _class_names(coco))
    raise MissingFileError(
        f"{path} names the image {firsts[0][:200]!r}, which is in none of "
        f"{', '.join(str(folder / name) for name in dict.fromkeys(names))}."
    )


def _class_names(coco: dict[str, Any]) -> list[str]:
    return [str(x["name"]) for x in sorted(coco["categories"], key=lambda x: x["id"])]
