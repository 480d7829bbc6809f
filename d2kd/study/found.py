"""What is found out before rows run: the options that tuning chose, and steps of the same time."""

from pathlib import Path
from typing import Any, Dict

from ..errors import ConfigError
from ..file_io import read_yaml

PACE = "pace.yaml"  # in the study's folder: row -> its steps, and what they were found from


def tuned_file(data: Dict[str, Any]) -> Path:
    """Where `d2kd study PLAN --tune` writes what it chose, and rows that are `tuned` read it."""
    return Path(data.get("tuned", Path(data["output"], "tuned.yaml")))


def read_tuned(data: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """What a tuning wrote: "tune", the section of the plan, and "rows"; {} before it.

    A row has its chosen "options", what was "tried" and the number of the "best".

    Raises:
        ConfigError: it is no such file.
    """
    file = tuned_file(data)
    found = _read(file)
    tune, rows = found.get("tune", {}), found.get("rows", {})
    types = {"metric": str, "test": str, "seed": int, "steps": int}
    well = (
        not found or _holds(tune, types) and all(_is_row(x, tune["metric"]) for x in rows.values())
    )
    if not well:
        raise _not_written(file)
    return found


def read_paces(data: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Row with `time_of` -> its "steps" and what they come from; {} before they are measured.

    Raises:
        ConfigError: it is no such file.
    """
    file = Path(data["output"], PACE)
    found = _read(file)
    types = {"time_of": str, "ratio": (int, float), "seconds": (int, float), "commands": list,
             "device": str, "steps": int}  # fmt: skip
    if not all(_holds(row, types) for row in found.values()):
        raise _not_written(file)
    return found


def _read(path: Path) -> Dict[str, Dict[str, Any]]:
    data = read_yaml(path) if path.is_file() else {}
    if not isinstance(data, dict) or not all(isinstance(x, dict) for x in data.values()):
        raise _not_written(path)
    return data


def _is_row(row: Any, metric: str) -> bool:
    tried = {"options": list, metric: (int, float, type(None))}
    return _holds(row, {"options": list, "tried": list, "best": int}) and all(
        _holds(x, tried) for x in row["tried"]
    )


def _holds(data: Any, types: Dict[str, Any]) -> bool:
    return isinstance(data, dict) and all(isinstance(data.get(k), x) for k, x in types.items())


def _not_written(path: Path) -> ConfigError:
    return ConfigError(f"{path} was not written by d2kd study: remove it, or name another file.")
