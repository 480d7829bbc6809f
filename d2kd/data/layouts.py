"""What to type for data sets in other layouts than COCO's."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..file_io import told
from .coco_files import image_folder
from .coco_json import read_coco
from .split_names import SPLITS, split_of
from .tree import Place, described, files_with
from .voc import has_annotations
from .yolo import draft, find_data_yaml, has_labels


def layout_of(folder: Path, places: Sequence[Place], found: Sequence[Path]) -> tuple[str, Path]:
    """What there is and what is converted: "coco", "voc", "yolo", "labels" (no data.yaml) or "".

    Args:
        folder: of the data set, or its data.yaml.
        places: the folders below it.
        found: json files in COCO's format, which go before others.
    """
    if found or folder.is_file():
        return ("yolo" if folder.suffix in (".yaml", ".yml") else "coco"), folder
    for place in places:
        if has_annotations(place):
            return "voc", _voc_root(place, folder)
    for place in places:
        if (source := find_data_yaml(place.folder)).is_file():
            return "yolo", source
    return "labels" if any(map(has_labels, places)) else "", folder


def advice(folder: Path, places: Sequence[Place], found: Sequence[Path]) -> str:
    """Say what a folder without a data set in COCO's format seems to be, and what to do.

    Args:
        folder: of the data set.
        places: the folders below it.
        found: json files in COCO's format of which none is known to be a split.
    """
    kind, source = layout_of(folder, places, found)
    if kind == "coco":
        return _several(folder, places, found)
    if kind in ("voc", "yolo"):
        return convert_first(source, kind)
    if kind == "labels":
        source = folder / "data.yaml"
        return (
            f"{folder} is in YOLO's layout, but has no data.yaml. Write one, for example "
            f"{draft(folder, places)}, and then: {_command(source, 'yolo', _target(source))}."
        )
    return (
        f"{folder} holds no data set: expected annotations/instances_train.json (and _val), "
        f"train.json, or train/_annotations.coco.json; found {described(places, folder)}. "
        f"{_hint(folder, places)}datasets/README.md shows the layouts."
    )


def convert_first(source: Path, kind: str) -> str:
    """Say with which command to convert a data.yaml ("yolo") or a folder ("voc")."""
    target = _target(source)
    return (
        f"{source} is in {kind.upper()}'s layout. Convert it once: "
        f"{_command(source, kind, target)}, and give --data {shlex.quote(target)}."
    )


def _several(folder: Path, places: Sequence[Place], found: Sequence[Path]) -> str:
    named = [path.relative_to(folder).as_posix() for path in found[:5]]
    lines = [
        f"{split}: {{json: {path.relative_to(folder)}, images: {_images_of(path, folder, places)}}}"
        for split, path in zip(SPLITS, found, strict=False)
    ]
    return (
        f"{folder} holds {len(found)} json files of COCO, and no name says which is "
        f"train: {', '.join(named)}. Write {folder / 'dataset.yaml'}, a line for each split, for "
        f"example {{{', '.join(lines)}}}"
    )


def _images_of(path: Path, folder: Path, places: Sequence[Place]) -> str:
    try:
        return os.path.relpath(image_folder(path, read_coco(path), folder, places), folder)
    except ConfigError:
        return "images"


def _hint(folder: Path, places: Sequence[Place]) -> str:
    """What files of other kinds may be."""
    what = told(folder)
    if what and "images" not in what:
        return f"{what.strip()} "
    jsons, xmls = files_with(places, ".json"), files_with(places, ".xml")
    if len(jsons) > 1 and len(jsons) >= len(files_with(places, ".jpg", ".jpeg", ".png")):
        return "A json file for each image is no COCO: export as COCO in the labelling tool. "
    if jsons or xmls:
        name = (jsons or xmls)[0].name
        return f"{name} is neither COCO's nor VOC's: export as COCO in the labelling tool. "
    if files_with(places, ".odgt"):
        return "datasets/prepare_crowdhuman.py converts CrowdHuman. "
    return f"{what.strip()} " if what else ""


def _voc_root(place: Place, folder: Path) -> Path:
    """The folder to convert: the one of ``Annotations`` in ``VOCdevkit``, or else all of it."""
    parent = place.folder.parent
    inside = place.folder.name == "Annotations" and place.folder != folder
    return parent if inside and not split_of(parent.name) else folder


def _command(source: Path, kind: str, target: str) -> str:
    return shlex.join(["d2kd", "convert", kind, str(source), target])


def _target(source: Path) -> str:
    folder = source if source.is_dir() else source.parent
    return f"{folder.resolve().name}_coco"
