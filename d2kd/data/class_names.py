"""Class names that are recorded with a run, and how two lists of them differ."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..file_io import read_bytes, read_json


def recorded_classes(path: str) -> list[str]:
    """Class names in the run.json of a run's folder, or beside a file; [] if there is none of ours.

    Args:
        path: a run's folder or a file in it; an address has no record.

    Raises:
        ConfigError: run.json is damaged.
    """
    place = Path(path.partition("#sha256=")[0])
    record = (place if place.is_dir() else place.parent) / "run.json"
    if not path or not record.is_file():
        return []
    try:
        data = read_json(record)
    except ConfigError:
        if b'"d2kd"' in read_bytes(record):
            raise
        return []
    names = data.get("classes") if isinstance(data, dict) else None
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    if names is not None and "d2kd" in data:
        raise ConfigError(f"{record} is damaged: its 'classes' are no list of names.")
    return []


def difference(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """What differs between two lists of as many names, as `"0: 'cat' and 'dog'"`.

    Upper case, spaces, ``_`` and ``-`` do not count, unless names differ by them alone. Nothing
    differs where one list is unknown, or where they are of different lengths.
    """
    if len(ours) != len(theirs):
        return []
    folded = [_fold(ours), _fold(theirs)]
    pairs = zip(*folded, ours, theirs, strict=True)
    return [f"{i}: {a!r} and {b!r}" for i, (x, y, a, b) in enumerate(pairs) if x != y]


def similar(names: Sequence[str]) -> list[str]:
    """Pairs of names that may mean one class, as `"'Car' and 'cars'"`.

    They differ in case, spaces, ``_``, ``-`` and the s of a plural alone.
    """
    groups = defaultdict(list)
    plain = {name: re.sub(r"[\s_-]+", "", name.casefold()) for name in names}
    known = {*plain.values()}
    for name, short in plain.items():
        singular = (short.removesuffix(end) for end in ("es", "s") if short.endswith(end))
        groups[next((x for x in singular if x in known), short)].append(name)
    return [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]


def is_reordered(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether a name of one list is in the other, at another place."""
    places = {name: i for i, name in enumerate(_fold(ours))}
    return any(places.get(name, i) != i for i, name in enumerate(_fold(theirs)))


def _fold(names: Sequence[str]) -> list[str]:
    folded = [re.sub(r"[\s_-]+", " ", name.casefold()).strip() for name in names]
    return folded if len(set(folded)) == len(set(names)) else list(names)
