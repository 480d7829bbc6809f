"""Checks of the yamls of studies and of robustness; each error is one line that names the key."""

from typing import Any, Dict, Set, Tuple

from ..errors import ConfigError, check_choice
from .locate import resolve_config_file

Types = Dict[str, Tuple[type, ...]]
"""Key -> what its value is and, of a list, what its items are; int is no bool, float may be int."""

_KINDS = {
    str: "text",
    int: "whole number",
    float: "number",
    list: "list",
    dict: "group of keys",
    bool: "true or false",
}


def checked_keys(where: str, data: Any, types: Types, needed: Set[str]) -> Dict[str, Any]:
    """The keys that have a value.

    Raises:
        ConfigError: `data` is no dictionary, a key is unknown or missing, or a value of another
            type; `where` begins the message.
    """
    check_type(where, data, dict)
    data = {key: value for key, value in data.items() if value is not None}
    for key in data:
        check_choice(str(key), types, f"{where}: key")
    if missing := sorted(key for key in needed if data.get(key, "") == ""):
        raise ConfigError(f"{where}: missing {', '.join(missing)}.")
    for key, value in data.items():
        check_type(f"{where}: {key}", value, *types[key])
    return data


def check_type(where: str, value: Any, kind: type, of: type = object) -> None:
    """Check a value, and the items of a list; see `Types`."""
    items = value if isinstance(value, list) else []
    if not _is(value, kind) or not all(_is(x, of) for x in items):
        what = _KINDS[kind] + (f" of {_KINDS[of]}s" if of in _KINDS else "")
        raise ConfigError(f"{where}: {value!r} is no {what}.")


def _is(value: Any, kind: type) -> bool:
    number = (int, float) if kind is float else kind
    return isinstance(value, number) and not (isinstance(value, bool) and kind in (int, float))


def checked_rows(where: str, rows: Any, types: Types) -> Dict[Any, Dict[str, Any]]:
    """Rows or models: name -> {config, options and other keys}.

    Raises:
        ConfigError: see `checked_keys`; there is none, or options are no pairs.
        MissingFileError: a config does not exist.
    """
    check_type(where, rows, dict)
    if not rows:
        raise ConfigError(f"{where}: give at least one, name -> {{config, options}}.")
    return {name: _checked_row(f"{where}: {name}", row, types) for name, row in rows.items()}


def _checked_row(where: str, row: Any, types: Types) -> Dict[str, Any]:
    row = {k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else {}
    if set(row) - set(types) or "config" not in row:
        others = ", ".join(key for key in types if key != "config")
        raise ConfigError(f"{where}: give config and, if wanted, {others}.")
    row = checked_keys(where, row, types, {"config"})
    resolve_config_file(row["config"], f"{where}: config")
    if len(row.get("options", ())) % 2:
        raise ConfigError(f"{where}: options must be pairs of KEY and VALUE.")
    return row
