"""Config files with their `_BASE_` files, read as data."""

import os
from pathlib import Path
from typing import Any, Dict, List, Tuple

import yaml

from ..errors import ConfigError, MissingFileError
from ..file_io import read_yaml
from .model_zoo import zoo_folder

BASE = "_BASE_"
MOST_FILES = 20  # that one config may be made of
LARGEST = 2**63  # of whole numbers

Keys = Dict[str, Any]


def read_config(path: str) -> Keys:
    """The keys of a yaml file, on top of those of the files that its `_BASE_` names.

    Files are local ones. Python tags are evaluated in Detectron2's model zoo alone, which is as
    installed as its code.

    Raises:
        MissingFileError: the file, or one that it starts from, does not exist.
        ConfigError: one is no yaml with keys, has python tags, or the chain of files is endless.
    """
    return _read(Path(path), (), {})


def _read(path: Path, above: Tuple[Path, ...], known: Dict[Path, Keys]) -> Keys:
    real = Path(os.path.realpath(path))
    if real in above:
        raise ConfigError(f"{path}: its {BASE} leads back to itself.")
    if real not in known:
        if len(known) + len(above) >= MOST_FILES:
            raise ConfigError(f"{path}: {BASE} leads to more than {MOST_FILES} files.")
        own = _read_keys(path)
        keys: Keys = {}
        for base in _bases(path, own.pop(BASE, [])):
            keys = _merged(keys, _read(base, (*above, real), known), path)
        known[real] = _merged(keys, own, path)
    return known[real]


def _read_keys(path: Path) -> Keys:
    zoo = os.path.realpath(zoo_folder())
    if os.path.realpath(path).startswith(zoo + os.sep):
        return yaml.unsafe_load(path.read_text(encoding="utf-8"))
    keys = read_yaml(path)
    if not isinstance(keys, dict):
        raise ConfigError(f"{path} holds no keys, such as MODEL: or _BASE_:.")
    _check(path, keys, "")
    return keys


def _check(path: Path, value: Any, name: str) -> None:
    """Keys are texts, and whole numbers such that they can be printed."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{path}: {name or 'it'} has the key {key!r}, which is no text.")
            _check(path, item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for item in value:
            _check(path, item, name)
    elif isinstance(value, int) and abs(value) >= LARGEST:
        raise ConfigError(f"{path}: {name} holds a whole number that is too large.")


def _bases(path: Path, given: Any) -> List[Path]:
    bases = given if isinstance(given, list) else [given]
    if not all(isinstance(base, str) for base in bases) or len(bases) > MOST_FILES:
        raise ConfigError(f"{path}: {BASE} must be a path, or a list of up to {MOST_FILES} paths.")
    return [_base(path, base) for base in bases]


def _base(path: Path, text: str) -> Path:
    if "://" in text:
        raise ConfigError(
            f"{path}: {BASE} is {text!r}: configs are not downloaded. Save that file beside "
            "this one, and name it here."
        )
    base = path.parent / os.path.expanduser(text)
    if not base.is_file():
        raise MissingFileError(f"{path}: {BASE} is {text!r}, but {base} is no file.")
    return base


def _merged(base: Keys, over: Keys, path: Path) -> Keys:
    """A new dictionary: `over` on top of `base`, section by section."""
    keys = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and key in keys:
            if not isinstance(keys[key], dict):
                raise ConfigError(f"{path}: {key} is a section, but {BASE} has a value there.")
            value = _merged(keys[key], value, path)
        keys[key] = value
    return keys
