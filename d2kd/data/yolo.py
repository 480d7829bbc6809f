"""Convert a data set in YOLO's layout to COCO json files, one per split.

Reads the ``data.yaml`` that names ``path``, ``train``, ``val``, ``test`` and ``names``, the label
files ``labels/**/ID.txt`` beside ``images/**/ID.jpg`` and the header of each image. A line is
``class x y width height``, the box's centre and size in parts of the image, or a polygon ``class x
y x y x y ...``, which is kept with the box around it. Where data.yaml has ``kpt_shape``, key points
follow the box; they are left out. An image without a label file has no objects.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingFileError
from ..file_io import read_yaml
from .coco_json import write_coco
from .image_files import list_images
from .pixels import image_size
from .yolo_labels import LabelFormat, label_path, read_labels

SPLITS = ("train", "val", "test")


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
    data_yaml = find_data_yaml(data_yaml)
    data, root = read_data_yaml(data_yaml), image_root(data_yaml)
    form = LabelFormat(_names(data, data_yaml), "kpt_shape" in data)
    splits = [split for split in SPLITS if data.get(split)]
    if not splits:
        raise ConfigError(f"{data_yaml} names no images: it needs train:, and val: or test:.")
    try:
        images = {split: _read_split(split, data[split], root, form) for split in splits}
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{data_yaml}: {reason[:300]}") from None
    output.mkdir(parents=True, exist_ok=True)
    paths = {split: output / f"instances_{split}.json" for split in splits}
    for split, path in paths.items():
        write_coco(path, images[split], form.classes)
    return paths


def find_data_yaml(path: Path) -> Path:
    """The file itself; of a folder ``data.yaml``, or else the first yaml file with ``names``."""
    if not path.is_dir() or (path / "data.yaml").is_file():
        return path / "data.yaml" if path.is_dir() else path
    for other in sorted([*path.glob("*.yaml"), *path.glob("*.yml")]):
        try:
            if "names" in read_data_yaml(other):
                return other
        except ConfigError:
            continue
    return path / "data.yaml"


def read_data_yaml(path: Path) -> dict[str, Any]:
    """The dictionary in a data.yaml.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no keys such as train: and names:.")
    return data


def image_root(data_yaml: Path) -> Path:
    """The folder that the paths of a data.yaml start from: its ``path``, or where it lies."""
    data_yaml = find_data_yaml(data_yaml)
    here = data_yaml.resolve().parent
    given = read_data_yaml(data_yaml).get("path")
    folder = here / os.path.expanduser(str(given)) if given else here
    return folder.resolve() if os.path.isdir(folder) else here


def _names(data: dict[str, Any], path: Path) -> list[str]:
    names = data.get("names")
    if isinstance(names, dict):
        numbers = {str(key): name for key, name in names.items()}
        names = [numbers.get(str(index)) for index in range(len(names))]
    texts = isinstance(names, list) and all(type(x) in (str, int, float) for x in names)
    if not names or not texts or len(set(map(str, names))) < len(names):
        raise ConfigError(
            f"{path}: names must list the classes, each once, not {str(data.get('names'))[:80]}; "
            "yaml needs quotes around words such as no and off."
        )
    if data.get("nc", len(names)) != len(names):
        raise ConfigError(f"{path}: nc is {data['nc']!r}, but names has {len(names)} classes.")
    return [str(name) for name in names]


def _read_split(split: str, entry: Any, root: Path, form: LabelFormat) -> list[dict[str, Any]]:
    entries = entry if isinstance(entry, list) else [entry]
    files = sorted({path for item in entries for path in _image_files(root, str(item))})
    if not files:
        raise MissingFileError(f"{root / str(entries[0])} holds no images.")
    if missing := [path for path in files if not os.path.isfile(path)]:
        raise MissingFileError(f"{len(missing):,} images do not exist: {missing[0]}.")
    labels = [label_path(path, root) for path in files]
    if split == "train" and not any(path.is_file() for path in labels):
        raise MissingFileError(
            f"none of the {len(files):,} images of train has a label file: {labels[0]} does not "
            "exist, for example."
        )
    return [_read_image(*paths, root, form) for paths in zip(files, labels, strict=True)]


def _image_files(root: Path, entry: str) -> Iterator[Path]:
    """Images of a folder, or those that a list names, inside of ``root``."""
    start = root / (entry if os.path.exists(root / entry) else entry.removeprefix("../"))
    if os.path.isdir(start):
        found = iter(list_images(start).images)
    elif start.suffix == ".txt" and os.path.isfile(start):
        lines = start.read_text(encoding="utf-8-sig", errors="replace").split("\n")
        found = (_listed(x.strip(), start, root) for x in lines if x.strip())
    else:
        raise MissingFileError(f"{start} is no folder of images and no list of them (.txt).")
    for path in found:
        if not (path := Path(os.path.normpath(path))).is_relative_to(root):
            raise ConfigError(
                f"{path} lies outside of {root}: let path: in the data.yaml name a folder that "
                "holds all images."
            )
        yield path


def _listed(name: str, source: Path, root: Path) -> Path:
    """A path in a list of images starts at the list, or else at the root."""
    return source.parent / name if os.path.isfile(source.parent / name) else root / name


def _read_image(path: Path, label: Path, root: Path, form: LabelFormat) -> dict[str, Any]:
    width, height = image_size(path)
    image = {"file_name": path.relative_to(root).as_posix(), "width": width, "height": height}
    return image | read_labels(label, form, width, height)
