"""Label files of YOLO's layout: a line for each object, in parts of the image."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from .coco_json import Box

_ROUNDING = 0.01  # parts of the image by which label tools overshoot it


class LabelFormat(NamedTuple):
    """What a data.yaml says about its label files."""

    classes: Sequence[str]
    keypoints: bool  # x y width height, then key points, which are left out


def label_path(image: Path, root: Path) -> Path:
    """Where an image's labels are: its last folder ``images`` is ``labels``, the suffix .txt."""
    parts = image.relative_to(root).parts
    last = max((i for i, part in enumerate(parts[:-1]) if part == "images"), default=None)
    folders = [*parts[:last], "labels", *parts[last + 1 : -1]] if last is not None else parts[:-1]
    return root.joinpath(*folders, f"{image.stem}.txt")


def read_labels(path: Path, form: LabelFormat, width: int, height: int) -> dict[str, Any]:
    """Boxes and polygons of an image, as `write_coco` takes them; none if there is no file.

    Args:
        path: the label file.
        form: its classes.
        width: of the image, px.
        height: of the image, px.

    Raises:
        ConfigError: a line cannot be read; the message has the file's name and the line's number.
    """
    objects = []
    if path.is_file():
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                objects.append(_read_line(line, f"{path}, line {number}", form, width, height))
    found: dict[str, Any] = {"boxes": [box for box, _ in objects]}
    if any(polygon for _, polygon in objects):
        found["polygons"] = [polygon for _, polygon in objects]
    return found


def _read_line(
    line: str, place: str, form: LabelFormat, width: int, height: int
) -> tuple[Box, list[float]]:
    """Convert a line to (class, x, y, width, height) and a polygon, maybe empty; px."""
    index, values = _read_numbers(line, place, form)
    if len(values) == 4:
        x, y, w, h = values
        box, polygon = (x - w / 2, y - h / 2, w, h), []
    else:
        xs, ys = values[::2], values[1::2]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        polygon = [v * side for v, side in zip(values, (width, height) * len(xs), strict=True)]
    x, y, w, h = box
    return (form.classes[index], x * width, y * height, w * width, h * height), polygon


def _read_numbers(line: str, place: str, form: LabelFormat) -> tuple[int, list[float]]:
    """The class's index, and 4 values or the 6 and more of a polygon, in parts of the image."""
    try:
        index, *values = [float(value) for value in line.split()]
    except ValueError:
        raise ConfigError(f"{place}: {line[:60]!r} holds something that is no number.") from None
    last = len(form.classes) - 1
    if index not in range(last + 1):
        raise ConfigError(f"{place}: class {index:g}, but names has 0 to {last}.")
    values = values[:4] if form.keypoints else values
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ConfigError(
            f"{place}: expected class x y width height, or a polygon, not {len(values)} numbers "
            "behind the class."
        )
    if not all(math.isfinite(x) and -_ROUNDING <= x <= 1 + _ROUNDING for x in values):
        raise ConfigError(f"{place}: {line[:60]!r} is not in parts of the image, 0 to 1.")
    return int(index), values
