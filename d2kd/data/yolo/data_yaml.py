"""The data.yaml of YOLO's layout: where images start, which splits there are, and the classes."""

import difflib
import logging
import os
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...file_io import read_text, read_yaml
from ...text import plain
from ..listing import warn_of
from ..split_names import SPLITS, is_split, split_of
from .places import nearest

logger = logging.getLogger(__name__)

_KNOWN = set(
    "path nc names download kpt_shape flip_idx kpt_names channels roboflow author date "
    "description info licence license name task url version yaml_file".split()
)
_MAX_ENTRIES = 1_000
_MAX_NAMES = 2**20  # bytes


def find_data_yaml(path: Path) -> Path:
    """The file itself; of a folder ``data.yaml``, or else the first yaml file with ``names``."""
    if not path.is_dir() or (path / "data.yaml").is_file():
        return path / "data.yaml" if path.is_dir() else path
    for other in sorted([*path.glob("*.yaml"), *path.glob("*.yml")]):
        try:
            if "names" in read_data_yaml(other):
                return other
        except ConfigError:
            continue
    return path / "data.yaml"


def read_data_yaml(path: Path) -> dict[str, Any]:
    """The dictionary in a data.yaml.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no keys such as train: and names:.")
    return data


def image_root(data_yaml: Path) -> Path:
    """The folder that the paths of a data.yaml start from.

    Its ``path``, or the longest end of it that there is where the file lies, or where it lies.
    """
    data_yaml = find_data_yaml(data_yaml)
    here = data_yaml.resolve().parent
    given = read_data_yaml(data_yaml).get("path")
    folder = here / os.path.expanduser(str(given)) if given else here
    if not os.path.isdir(folder):
        folder = nearest(str(given), here) or here
    return folder.resolve() if os.path.isdir(folder) else here


def read_entries(data: dict[str, Any], path: Path) -> dict[str, list[str]]:
    """What each split names; ``valid`` and the like are val, and keys not known are warned of.

    Raises:
        ConfigError: there is no split, or one names more than a thousand places.
    """
    others = {str(key) for key in data} - {*SPLITS} - _KNOWN
    taken = {split_of(key): key for key in sorted(others) if is_split(key)}
    taken = {k: v for k, v in taken.items() if k in SPLITS and not data.get(k) and data[v]}
    for split, key in taken.items():
        logger.warning(f"{plain(path)}: {key} is taken as {split}.")
    unknown = [f"{key}{_near(key)}" for key in sorted(others - set(taken.values()))]
    warn_of(logger, unknown, "keys are not known", f"{plain(path)}: ")
    for split in ("train", "val"):
        if split in data and not data[split] and split not in taken:
            logger.warning(f"{plain(path)}: {split} names nothing and is left out.")
    entries = {split: data.get(taken.get(split, split)) for split in SPLITS}
    found = {k: v if isinstance(v, list) else [v] for k, v in entries.items() if v}
    if not found:
        raise ConfigError(f"{path} names no images: it needs train:, and val: or test:.")
    if many := [split for split, places in found.items() if len(places) > _MAX_ENTRIES]:
        raise ConfigError(f"{path}: {many[0]} names more than {_MAX_ENTRIES:,} places.")
    return {split: list(dict.fromkeys(map(str, places))) for split, places in found.items()}


def read_names(data: dict[str, Any], path: Path) -> list[str]:
    """The classes by their numbers: a list, a dictionary, or a file of a name on each line.

    Raises:
        ConfigError: none of these, or they are not as many as ``nc`` says.
    """
    names = data.get("names")
    if isinstance(names, str) and (file := path.parent / names).is_file():
        names = _read_names_file(file)
    if isinstance(names, dict):
        numbers = {str(key): name for key, name in names.items()}
        names = [numbers.get(str(index)) for index in range(len(names))]
    texts = isinstance(names, list) and all(type(x) in (str, int, float) for x in names)
    if not names or not texts or len(set(map(str, names))) < len(names):
        raise ConfigError(
            f"{path}: names must list the classes, each once, not {str(data.get('names'))[:80]}; "
            "yaml needs quotes around words such as no and off."
        )
    if str(data.get("nc", len(names))) != str(len(names)):
        raise ConfigError(f"{path}: nc is {data['nc']!r}, but names has {len(names)} classes.")
    return [str(name) for name in names]


def _read_names_file(path: Path) -> list[str]:
    lines = read_text(path, _MAX_NAMES, "names").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _near(key: str) -> str:
    near = difflib.get_close_matches(key.lower(), [*SPLITS, "names", "path"], n=1)
    return f" (did you mean {near[0]}?)" if near else ""
