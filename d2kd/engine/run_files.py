"""Files of a run's folder, each read as far as it can be: whole, cut off, or anything else."""

import json
import math
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

from ..errors import ConfigError
from ..file_io import told

Curve = Tuple[List[int], List[float]]
_FILES = ("config.yaml", "metrics.json", "results.json", "run.json")
_PICTURE = re.compile(r"image\d{1,9}_(\d{1,12})\.png")
T = TypeVar("T")
_KINDS: Dict[type, str] = {int: "whole number", dict: "dictionary", list: "list"}
_MAX_STEP = 10**12


def check_run(folder: Path, key: str = "") -> None:
    """Check that a folder is that of a run.

    Raises:
        ConfigError: it is not; says what it is.
    """
    if not any((folder / x).exists() for x in _FILES):
        where = f"{key}: {folder}" if key else folder
        raise ConfigError(
            f"{where} is not the folder of a run: it has no {', '.join(_FILES)}.{told(folder)}"
        )


def read_values(path: Path, read: Callable[[Path], Any], missing: List[str]) -> Dict[Any, Any]:
    """Keys and values of a yaml or json file, {} where `read` raises a ConfigError."""
    if not path.exists():
        missing.append(f"{path.name} is missing.")
        return {}
    try:
        values = read(path)
    except ConfigError as error:
        missing.append(str(error).replace(str(path), path.name, 1))
        return {}
    if not isinstance(values, dict):
        missing.append(f"{path.name} holds no keys and values.")
        return {}
    return values


def value_of(values: Dict[Any, Any], key: str, default: T, file: str, missing: List[str]) -> T:
    """The value of a key; `default` where it is of another type."""
    value = values.get(key, default)
    if type(value) is type(default):
        return value
    missing.append(f"{file}: {key} is no {_KINDS[type(default)]}.")
    return default


def texts_of(values: Dict[Any, Any], key: str, file: str, missing: List[str]) -> List[str]:
    """The list of texts of a key, without entries of other types."""
    found: List[Any] = value_of(values, key, [], file, missing)
    texts = [x for x in found if isinstance(x, str)]
    if len(texts) < len(found):
        missing.append(f"{file}: {key} has entries that are no text.")
    return texts


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
    if not path.is_file():
        missing.append(f"{path.name} is {'no file' if path.exists() else 'missing'}.")
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
