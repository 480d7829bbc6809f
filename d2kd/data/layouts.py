"""What to type for data sets in other layouts than COCO's."""

import shlex
from pathlib import Path

from .yolo import find_data_yaml


def advice(folder: Path) -> str:
    """Say what a folder without a data set in COCO's format seems to be, and what to do."""
    for path in (folder, *sorted(folder.glob("*/"))):
        if (path / "Annotations").is_dir():
            return convert_first(path, "voc")
    source = find_data_yaml(folder)
    if source.is_file():
        return convert_first(source, "yolo")
    if (folder / "labels").is_dir():
        return (
            f"--data {folder} is in YOLO's layout, but has no data.yaml. Write one with train:, "
            f"val: and names:, and then: {_command(source, 'yolo', _target(source))}."
        )
    return (
        f"--data {folder} holds no data set: expected annotations/instances_train.json (and _val), "
        "train.json, or train/_annotations.coco.json; datasets/README.md shows the layouts."
    )


def convert_first(source: Path, kind: str) -> str:
    """Say with which command to convert a data.yaml ("yolo") or a folder ("voc")."""
    target = _target(source)
    return (
        f"--data {source} is in {kind.upper()}'s layout. Convert it once: "
        f"{_command(source, kind, target)}, and give --data {shlex.quote(target)}."
    )


def _command(source: Path, kind: str, target: str) -> str:
    return shlex.join(["d2kd", "convert", kind, str(source), target])


def _target(source: Path) -> str:
    folder = source.parent if source.suffix else source
    return f"{folder.resolve().name}_coco"
