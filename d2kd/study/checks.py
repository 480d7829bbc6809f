"""Checks of a study's yaml; each error is one line that names the key."""

from pathlib import Path
from typing import Any, Dict, List

from ..config.plan_keys import Types, check_type, checked_keys, checked_rows
from ..errors import ConfigError, MissingFileError

_STUDY: Types = {
    "title": (str,), "output": (str,), "baseline": (object,), "metric": (str,),
    "more_metrics": (list, str), "seeds": (list, int), "options": (list,), "rows": (dict,),
    "robustness": (dict,), "imports": (list, str), "tuned": (str,), "tune": (dict,),
    "num_gpus": (int,),
}  # fmt: skip
_TRIED: Types = {
    "config": (str,), "options": (list,), "teacher": (str,), "methods": (list, str),
    "tuned": (str,), "try": (list, list),
}  # fmt: skip
_ROW: Types = {
    **{key: kind for key, kind in _TRIED.items() if key != "try"},
    "run": (object,), "seeds": (list, int), "time_of": (str,),
}  # fmt: skip
_TUNE: Types = {
    "test": (str,), "seed": (int,), "steps": (int,), "unequal": (bool,), "rows": (dict,),
}  # fmt: skip


def checked(path: str, data: Any) -> Dict[str, Any]:
    """The keys of a study that have a value, of the right types.

    Raises:
        ConfigError, MissingFileError: see `d2kd.study.load_study`.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a study: it holds no keys.")
    data = checked_keys(path, data, _STUDY, {"output", "seeds", "rows"})
    data["rows"] = _checked_rows(f"{path}: rows", data["rows"], _ROW)
    _check_names(path, data)
    _check_gpus(path, data)
    if "tune" in data:
        data["tune"] = _checked_tune(f"{path}: tune", data["tune"], data["rows"])
        for name, row in data["rows"].items():
            if row.get("tuned", "") not in {"", *data["tune"]["rows"]}:
                raise ConfigError(
                    f"{path}: rows: {name}: tuned {row['tuned']!r} is no row of tune."
                )
    return data


def _checked_rows(where: str, rows: Any, types: Types) -> Dict[Any, Dict[str, Any]]:
    rows = checked_rows(where, rows, types)
    for name, row in rows.items():
        if any(len(pairs) % 2 for pairs in row.get("try", ())):
            raise ConfigError(f"{where}: {name}: options must be pairs of KEY and VALUE.")
        if "seeds" in row:
            _check_seeds(f"{where}: {name}", row["seeds"])
    return rows


def _check_seeds(where: str, seeds: List[int]) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}: seeds must name at least one seed, each once.")


def _check_gpus(path: str, data: Dict[str, Any]) -> None:
    gpus = data.get("num_gpus", 1)
    if gpus < 1:
        raise ConfigError(f"{path}: num_gpus must be at least 1, not {gpus}.")
    timed = [str(name) for name, row in data["rows"].items() if "time_of" in row]
    if gpus > 1 and timed:
        raise ConfigError(
            f"{path}: num_gpus {gpus} does not go with time_of ({', '.join(timed)}), whose steps "
            "are timed in one process: write their SOLVER.MAX_ITER into their options."
        )


def _check_names(path: str, data: Dict[str, Any]) -> None:
    rows = data["rows"]
    names = list(rows)
    _check_seeds(path, data["seeds"])
    for name in data.get("imports", []):
        if not Path(name).is_file():
            raise MissingFileError(f"{path}: imports: no such file: {name}")
    if data.get("baseline", names[0]) not in names:
        raise ConfigError(f"{path}: baseline {data['baseline']!r} is not one of the rows.")
    chosen = data.get("robustness", {}).get("rows", names)
    check_type(f"{path}: robustness: rows", chosen, list)
    if unknown := [row for row in chosen if row not in names]:
        raise ConfigError(f"{path}: robustness: rows: {unknown} are not rows of the study.")
    for name, row in rows.items():
        _check_references(f"{path}: rows: {name}", row, rows)


def _check_references(where: str, row: Dict[str, Any], rows: Dict[Any, Dict[str, Any]]) -> None:
    """A row whose time is another's needs that one, and a teacher must not wait for other rows."""
    other = row.get("time_of")
    if other is not None and "time_of" in rows.get(other, row):
        raise ConfigError(f"{where}: time_of {other!r} is no row that has steps of its own.")
    if {"teacher", "time_of"} & set(rows.get(row.get("teacher"), {})):
        raise ConfigError(f"{where}: teacher {row['teacher']!r} is a row with teacher or time_of.")


def _checked_tune(where: str, tune: Dict[str, Any], rows: Dict[Any, Any]) -> Dict[str, Any]:
    tune = checked_keys(where, tune, _TUNE, {"test", "steps", "rows"})
    tune["rows"] = _checked_rows(f"{where}: rows", tune["rows"], _TRIED)
    before: List[Any] = []
    for name, row in tune["rows"].items():
        _check_references(f"{where}: rows: {name}", row, rows)
        if not row.get("try"):
            raise ConfigError(f"{where}: rows: {name}: try: give at least one list of KEY, VALUE.")
        if "tuned" in rows.get(row.get("teacher"), {}):
            raise ConfigError(
                f"{where}: rows: {name}: teacher {row['teacher']!r} waits for tuning."
            )
        if "tuned" in row and row["tuned"] not in before:
            raise ConfigError(f"{where}: rows: {name}: tuned {row['tuned']!r} is no row above it.")
        before.append(name)
    counts = {name: len(row["try"]) for name, row in tune["rows"].items()}
    if len(set(counts.values())) > 1 and not tune.get("unequal"):
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ConfigError(
            f"{where}: rows have unequal numbers of tries ({said}): give each as many, or write "
            "unequal: true, which the report then says."
        )
    return tune
