"""Label files of YOLO's layout: a line for each object, in parts of the image."""

import logging
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...file_io import read_text
from ..coco_json import Box

logger = logging.getLogger(__name__)

_ROUNDING = 0.01  # parts of the image by which label tools overshoot it
_MAX_BYTES = 2**24
_DECIMAL_COMMA = re.compile(r"[-+]?\d+(,\d+)?")
_MEANING = {
    "twice": "label lines are there twice in their file and taken once",
    "commas": "label lines have commas between their numbers, or in them for points",
    "points": "objects have key points, which are left out",
}


class LabelReader:
    """Reads label files one by one; `finish` says what was found in all of them."""

    def __init__(self, classes: list[str], keypoints: bool) -> None:
        """Classes by number; `keypoints`: x y width height, then key points, which are left out."""
        self.classes = classes
        self._keypoints = keypoints
        self._counts: Counter[str] = Counter()
        self._lengths: Counter[tuple[int, bool]] = (
            Counter()
        )  # of polygons; is the last number whole
        self._errors: list[str] = []

    def read(self, path: Path | None, width: int, height: int) -> dict[str, Any]:
        """Boxes and polygons of an image, as `write_coco` takes them; none if there is no file.

        Args:
            path: the label file.
            width: of the image, px.
            height: of the image, px.

        Raises:
            ConfigError: the file is too large.
        """
        objects = {}
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            try:
                values = self._numbers(line)
            except ConfigError as error:
                self._errors.append(f"{path}, line {number}: {error}")
                continue
            self._counts["twice"] += values in objects
            objects[values] = self._object(values, width, height)
        found: dict[str, Any] = {"boxes": [box for box, _ in objects.values()]}
        if any(polygon for _, polygon in objects.values()):
            found["polygons"] = [polygon for _, polygon in objects.values()]
        return found

    def finish(self) -> None:
        """Warn, with counts, about what is left out or unusual.

        Raises:
            ConfigError: lines could not be read; the message has the first one's place.
        """
        if self._errors:
            more = f" {len(self._errors) - 1:,} more lines cannot be read."
            raise ConfigError(self._errors[0] + more * (len(self._errors) > 1))
        if self._lengths and set(self._lengths) == {(6, True)}:
            raise ConfigError(
                f"all {self._lengths.total():,} lines of more than a box have 6 numbers behind the "
                "class, the last one whole, as x y width height confidence track has: leave the "
                "last two out."
            )
        for key, count in self._counts.items():
            if count:
                logger.warning(f"{count:,} {_MEANING[key]}.")
        if self._lengths and {length for length, _ in self._lengths} == {8}:
            logger.warning(
                f"{self._lengths.total():,} objects have 4 corners, as turned boxes have: the "
                "upright box around each is taken, and the corners as its polygon."
            )

    def _numbers(self, line: str) -> tuple[float, ...]:
        """The class, and 4 values or the 6 and more of a polygon, in parts of the image."""
        index, *values = self._floats(line)
        last = len(self.classes) - 1
        if index not in range(last + 1):
            raise ConfigError(f"class {index:g}, but names has 0 to {last}.")
        self._counts["points"] += self._keypoints and len(values) > 4
        values = values[:4] if self._keypoints else values
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            hint = " The fifth may be a confidence or a track: leave it out." * (len(values) == 5)
            raise ConfigError(
                f"expected class x y width height, or a polygon, not {len(values)} numbers behind "
                f"the class.{hint}"
            )
        if not all(math.isfinite(x) and -_ROUNDING <= x <= 1 + _ROUNDING for x in values):
            raise ConfigError(f"{line[:60]!r} is not in parts of the image, 0 to 1.")
        return index, *values

    def _floats(self, line: str) -> list[float]:
        words = line.split()
        if "," in line:
            decimal = len(words) >= 5 and all(map(_DECIMAL_COMMA.fullmatch, words))
            words = re.split(r"[,\s]+", line.strip(" ,\t\r"))
            words = [x.replace(",", ".") for x in line.split()] if decimal else words
            self._counts["commas"] += 1
        try:
            return [float(word) for word in words]
        except ValueError:
            known = words[0] in self.classes
            hint = f" Write {self.classes.index(words[0])} for {words[0]}." if known else ""
            raise ConfigError(f"{line[:60]!r} holds something that is no number.{hint}") from None

    def _object(
        self, numbers: tuple[float, ...], width: int, height: int
    ) -> tuple[Box, list[float]]:
        """Convert numbers to (class, x, y, width, height) and a polygon, maybe empty; px."""
        index, *values = numbers
        polygon: list[float] = []
        if len(values) == 4:
            x, y, w, h = values
            x, y = x - w / 2, y - h / 2
        else:
            self._lengths[len(values), values[-1].is_integer()] += 1
            xs, ys = values[::2], values[1::2]
            x, y, w, h = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
            polygon = [v * side for v, side in zip(values, (width, height) * len(xs), strict=True)]
        name = self.classes[int(index)]
        return (name, x * width, y * height, w * width, h * height), polygon


def _lines(path: Path | None) -> list[str]:
    return read_text(path, _MAX_BYTES, "labels").split("\n") if path else []
