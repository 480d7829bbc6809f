"""The splits of a data set's folder, found by its layout."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..checks import ConfigError, MissingFileError
from .yolo import read_data_yaml

INDEX = "dataset.yaml"
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
    the split, ``images`` and ``JPEGImages``, by the first file name in the json file.

    Raises:
        ConfigError: none of them; for YOLO's and VOC's layouts with the command that converts them.
    """
    folder = Path(os.path.expanduser(folder))
    if folder.is_file() and folder.suffix in (".yaml", ".yml") and folder.name != INDEX:
        raise ConfigError(_convert(folder, "yolo"))
    if not folder.is_dir():
        raise MissingFileError(f"--data {folder}: there is no such folder.")
    if (folder / INDEX).is_file():
        return _read_index(folder)
    found = {_split_name(path): _read_split(path, folder) for path in _json_files(folder)}
    if not found:
        raise ConfigError(_advice(folder))
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def write_index(folder: Path, splits: dict[str, Path], images: Path) -> Path:
    """Write ``dataset.yaml`` into a folder: json files there and their common image folder."""
    root = os.path.relpath(images.resolve(), folder.resolve())
    data = {split: {"json": path.name, "images": root} for split, path in splits.items()}
    path = folder / INDEX
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def _read_index(folder: Path) -> dict[str, Split]:
    data = read_data_yaml(folder / INDEX)
    splits = {}
    for name, entry in data.items():
        if name not in ("train", "val", "test") or set(entry or ()) != {"json", "images"}:
            raise ConfigError(f"{folder / INDEX}: expected train, val, test with json and images.")
        path, images = (folder / str(entry[key]) for key in ("json", "images"))
        splits[name] = Split(path, images, _read_classes(path)[0])
    return splits


def _json_files(folder: Path) -> Iterator[Path]:
    for pattern in ("annotations/*.json", "*.json", "*/_annotations.coco.json"):
        found = [path for path in sorted(folder.glob(pattern)) if _split_name(path)]
        if found:
            return iter(found)
    return iter(())


def _split_name(path: Path) -> str:
    name = path.parent.name if path.name == "_annotations.coco.json" else path.stem
    match = _SPLIT.match(name)
    return {"valid": "val"}.get(match[1], match[1]) if match else ""


def _read_split(path: Path, folder: Path) -> Split:
    classes, first = _read_classes(path)
    stem = path.stem.removeprefix("instances_")
    names = [stem, _split_name(path), f"images/{stem}", f"images/{_split_name(path)}", "images",
             "JPEGImages", path.parent.name, ""]  # fmt: skip
    for name in dict.fromkeys(names):
        if (folder / name / first).is_file():
            return Split(path, folder / name, classes)
    raise MissingFileError(
        f"{path} names the image {first!r}, which is in none of "
        f"{', '.join(str(folder / name) for name in dict.fromkeys(names))}."
    )


def _read_classes(path: Path) -> tuple[list[str], str]:
    """Class names in the order of their ids, and the first image's file name."""
    try:
        coco: Any = json.loads(path.read_text(encoding="utf-8"))
        classes = sorted((c["id"], str(c["name"])) for c in coco["categories"])
        return [name for _, name in classes], str(coco["images"][0]["file_name"])
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not in COCO's json format, with images and categories: "
            f"{type(error).__name__}: {error}"
        ) from None


def _advice(folder: Path) -> str:
    if (folder / "Annotations").is_dir():
        return _convert(folder, "voc")
    if (folder / "data.yaml").is_file() or (folder / "labels").is_dir():
        return _convert(folder / "data.yaml", "yolo")
    return (
        f"--data {folder} holds no data set: expected annotations/instances_train.json (and _val), "
        "train.json, or train/_annotations.coco.json; datasets/README.md shows the layouts."
    )


def _convert(source: Path, kind: str) -> str:
    target = source.parent if source.suffix else source
    name = target.resolve().name
    return (
        f"--data {source} is in {kind.upper()}'s layout. Convert it once: d2kd convert {kind} "
        f"{source} {name}_coco, and give --data {name}_coco."
    )
