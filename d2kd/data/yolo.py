"""Convert a data set in YOLO's layout to COCO json files, one per split.

Reads the ``data.yaml`` that names ``path``, ``train``, ``val``, ``test`` and ``names``, the label
files ``labels/**/ID.txt`` beside ``images/**/ID.jpg`` and the header of each image. A line is
``class x y width height``, the box's centre and size in parts of the image, or a polygon ``class x
y x y x y ...``, of which the box around it is taken. An image without a label file has no objects.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..checks import ConfigError, MissingFileError
from .coco_json import image_size, write_coco

SPLITS = ("train", "val", "test")
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_ROUNDING = 0.01  # parts of the image by which label tools overshoot it


def yolo_to_coco(data_yaml: Path, output: Path) -> dict[str, Path]:
    """Convert the splits that a data.yaml names.

    Args:
        data_yaml: the file, or the folder that holds it.
        output: where to write ``instances_SPLIT.json``; made if needed.

    Returns:
        The json file of each split; file names in them are relative to `image_root`.

    Raises:
        ConfigError: a file is missing or cannot be read; the message has its name and line.
    """
    data_yaml = data_yaml / "data.yaml" if data_yaml.is_dir() else data_yaml
    data, root = read_data_yaml(data_yaml), image_root(data_yaml)
    classes, splits = _names(data, data_yaml), [x for x in SPLITS if data.get(x)]
    if not splits:
        raise ConfigError(f"{data_yaml} names no images: it needs train:, and val: or test:.")
    images = {split: _read_split(data[split], root, classes) for split in splits}
    output.mkdir(parents=True, exist_ok=True)
    paths = {split: output / f"instances_{split}.json" for split in splits}
    for split, path in paths.items():
        write_coco(path, images[split], classes)
    return paths


def read_data_yaml(path: Path) -> dict[str, Any]:
    """The dictionary in a data.yaml.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{path} is not valid yaml: {reason}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no keys such as train: and names:.")
    return data


def image_root(data_yaml: Path) -> Path:
    """The folder that the paths of a data.yaml start from: its ``path``, or where it lies."""
    here = data_yaml.resolve().parent
    given = read_data_yaml(data_yaml).get("path")
    folder = here / str(given) if given else here
    return folder.resolve() if folder.is_dir() else here


def _names(data: dict[str, Any], path: Path) -> list[str]:
    names = data.get("names")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise ConfigError(f"{path}: names must list the classes, each once, not {names!r}.")
    return [str(name) for name in names]


def _read_split(entry: Any, root: Path, classes: Sequence[str]) -> list[dict[str, Any]]:
    entries = entry if isinstance(entry, list) else [entry]
    files = sorted({path for item in entries for path in _image_files(root, str(item))})
    if not files:
        raise MissingFileError(f"{root / str(entries[0])} holds no images.")
    return [_read_image(path, root, classes) for path in files]


def _image_files(root: Path, entry: str) -> Iterator[Path]:
    """Images of a folder, or those that a list names, inside of ``root``."""
    start = (root / entry.removeprefix("../")) if not (root / entry).exists() else root / entry
    if start.is_dir():
        found = (x for x in start.rglob("*") if x.suffix.lower() in SUFFIXES)
    elif start.suffix == ".txt" and start.is_file():
        lines = start.read_text(encoding="utf-8", errors="replace").splitlines()
        found = (root / x.strip() for x in lines if x.strip())
    else:
        raise MissingFileError(f"{start} is no folder of images and no list of them (.txt).")
    for path in found:
        if not path.resolve().is_relative_to(root):
            raise ConfigError(f"{path} lies outside of {root}, the path of the data.yaml.")
        yield path


def _read_image(path: Path, root: Path, classes: Sequence[str]) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist.")
    width, height = image_size(path)
    parts = path.relative_to(root).parts
    last = max((i for i, part in enumerate(parts[:-1]) if part == "images"), default=None)
    folders = [*parts[:last], "labels", *parts[last + 1 : -1]] if last is not None else parts[:-1]
    label = root.joinpath(*folders, f"{path.stem}.txt")
    boxes = []
    if label.is_file():
        for number, line in enumerate(label.read_text(errors="replace").splitlines(), 1):
            if line.strip():
                boxes.append(_read_line(line, f"{label}, line {number}", classes, width, height))
    name = path.relative_to(root).as_posix()
    return {"file_name": name, "width": width, "height": height, "boxes": boxes}


def _read_line(
    line: str, place: str, classes: Sequence[str], width: int, height: int
) -> tuple[str, float, float, float, float]:
    """Convert a line to (class, x, y, width, height), px from the image's corner."""
    try:
        index, *values = [float(value) for value in line.split()]
    except ValueError:
        raise ConfigError(f"{place}: {line[:60]!r} holds something that is no number.") from None
    if index not in range(len(classes)):
        raise ConfigError(f"{place}: class {index:g}, but names has 0 to {len(classes) - 1}.")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ConfigError(f"{place}: expected class x y width height, or a polygon.")
    if not all(math.isfinite(x) and -_ROUNDING <= x <= 1 + _ROUNDING for x in values):
        raise ConfigError(f"{place}: {line[:60]!r} is not in parts of the image, 0 to 1.")
    if len(values) == 4:
        x, y, w, h = values
        x, y = x - w / 2, y - h / 2
    else:
        x, y = min(values[::2]), min(values[1::2])
        w, h = max(values[::2]) - x, max(values[1::2]) - y
    return classes[int(index)], x * width, y * height, w * width, h * height
