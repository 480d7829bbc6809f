"""What is found out before rows run: the options that tuning chose, and steps of the same time."""

from pathlib import Path
from typing import Any, Dict

import yaml

from ..errors import ConfigError
from ..file_io import read_yaml, write_atomically

PACE = "pace.yaml"  # in the study's folder: row -> its steps, and what they were found from


def tuned_file(data: Dict[str, Any]) -> Path:
    """Where `d2kd study PLAN --tune` writes what it chose, and rows that are `tuned` read it."""
    return Path(data.get("tuned", Path(data["output"], "tuned.yaml")))


def read_tuned(data: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Row of `tune` -> its chosen "options" and what was "tried"; {} before it is tuned.

    Raises:
        ConfigError: see `read_found`.
    """
    path = tuned_file(data)
    rows: Dict[str, Dict[str, Any]] = read_found(path).get("rows", {})
    if not all(
        isinstance(row, dict) and all(isinstance(row.get(x), list) for x in ("options", "tried"))
        for row in rows.values()
    ):
        raise _not_written(path)
    return rows


def read_found(path: Path) -> Dict[str, Dict[str, Any]]:
    """What a file of these holds, {} where there is none.

    Raises:
        ConfigError: it is no such file.
    """
    data = read_yaml(path) if path.is_file() else {}
    if not isinstance(data, dict) or not all(isinstance(x, dict) for x in data.values()):
        raise _not_written(path)
    return data


def _not_written(path: Path) -> ConfigError:
    return ConfigError(f"{path} was not written by d2kd study: remove it, or name another file.")


def write_found(path: Path, data: Dict[str, Any]) -> None:
    """Write such a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    write_atomically(path, lambda file: file.write_text(text, "utf-8"))
