"""Files of a run's folder, each read as far as it can be: whole, cut off, or anything else."""

import json
import math
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..errors import ConfigError

Curve = Tuple[List[int], List[float]]
_PICTURE = re.compile(r"image\d{1,9}_(\d{1,12})\.png")
_KINDS = {int: "whole number", dict: "dictionary", list: "list", str: "text"}
_MAX_STEP = 10**12


class Keys:
    """Keys and values of a yaml or json file; what cannot be read is a sentence in `missing`."""

    def __init__(self, path: Path, read: Callable[[Path], Any], missing: List[str]) -> None:
        """Read the file with `read`, which raises ConfigError."""
        self._file, self._missing = path.name, missing
        self.values: Dict[Any, Any] = {}
        if not path.exists():
            missing.append(f"{path.name} is missing.")
            return
        try:
            values = read(path)
        except ConfigError as error:
            missing.append(str(error).replace(str(path), path.name, 1))
            return
        if isinstance(values, dict):
            self.values = values
        else:
            missing.append(f"{path.name} holds no keys and values.")

    def get(self, key: str, kind: type, default: Any) -> Any:
        """The value of a key, its parts parted by dots; `default` where it is of another type."""
        value: Any = self.values
        *outer, last = key.split(".")
        for part in outer:
            value = value.get(part, {}) if isinstance(value, dict) else None
        value = value.get(last, default) if isinstance(value, dict) else None
        if isinstance(value, kind) and not isinstance(value, bool):
            return value
        self._missing.append(f"{self._file}: {key} is no {_KINDS[kind]}.")
        return default

    def texts(self, key: str) -> List[str]:
        """The list of texts of a key, without entries of other types."""
        found = self.get(key, list, [])
        texts = [x for x in found if isinstance(x, str)]
        if len(texts) < len(found):
            self._missing.append(f"{self._file}: {key} has entries that are no text.")
        return texts


def flatten(node: Dict[Any, Any], dot: str = ".") -> Dict[str, Any]:
    """Values by their keys joined with dots, in order."""
    found, rest = {}, [(str(key), value) for key, value in reversed(node.items())]
    while rest:
        key, value = rest.pop()
        if isinstance(value, dict):
            rest += [(f"{key}{dot}{inner}", x) for inner, x in reversed(value.items())]
        else:
            found[key] = value
    return found


def number(value: Any) -> Optional[float]:
    """A number of any size as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def read_metrics(path: Path, missing: List[str]) -> Dict[str, Curve]:
    """The curves of metrics.json, one row a line; lines that are no rows are counted."""
    metrics: Dict[str, Curve] = {}
    if not path.exists():
        missing.append(f"{path.name} is missing.")
        return metrics
    if not path.is_file():
        missing.append(f"{path.name} is no file.")
        return metrics
    count = bad = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                count, bad = count + 1, bad + (not _add_row(line, metrics))
    except OSError as error:
        missing.append(f"{path.name} cannot be read: {error.strerror}.")
    if bad or not count:
        missing.append(f"{bad} of {count} lines of {path.name} cannot be read." if count
                       else f"{path.name} is empty.")  # fmt: skip
    return metrics


def _add_row(line: bytes, metrics: Dict[str, Curve]) -> bool:
    try:
        row = json.loads(line)
        step = row.pop("iteration")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    if type(step) is not int or not 0 <= step < _MAX_STEP:
        return False
    for name, value in row.items():
        if (x := number(value)) is not None:
            steps, values = metrics.setdefault(name, ([], []))
            steps.append(step + 1)
            values.append(x)
    return True


def last_pictures(folder: Path) -> List[Path]:
    """The PNG files of the last time that pictures were drawn there."""
    found = [(m, x) for x in sorted(folder.glob("*.png")) if (m := _PICTURE.fullmatch(x.name))]
    last = max((int(m[1]) for m, _ in found), default=0)
    return [x for m, x in found if int(m[1]) == last]
