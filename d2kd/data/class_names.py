"""Class names that are recorded with a run, and how two lists of them differ."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, check_choice
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


_SAME = (
    {"tv", "television", "tvmonitor"},
    {"motorbike", "motorcycle"},
    {"aeroplane", "airplane"},
    {"sofa", "couch"},
    {"pottedplant", "potted plant"},
    {"diningtable", "dining table"},
    {"cell phone", "mobile phone"},
)


def matching(
    ours: Sequence[str], theirs: Sequence[str], given: Sequence[Sequence[str]] = ()
) -> list[list[int]]:
    """For each of our names the places of those of theirs that mean the same.

    Upper case, spaces, ``_`` and ``-`` do not count, unless names differ by them alone; a short
    table knows that a sofa is a couch. Pairs that are given come first.

    Args:
        ours, theirs: class names.
        given: pairs (their name, our name), as they are written.

    Raises:
        ConfigError: a pair of names that do not exist, or two pairs of one of theirs.
    """
    pairs: dict[str, str] = {}
    for their, our in ((str(x), str(y)) for x, y in given):
        if pairs.setdefault(their, our) != our:
            raise ConfigError(
                f"DISTILL.TEACHER.CLASS_MAP gives the teacher's class {their!r} to "
                f"{pairs[their]!r} and to {our!r}: name it once."
            )
        check_choice(their, theirs, "DISTILL.TEACHER.CLASS_MAP, the teacher's class")
        check_choice(our, ours, "DISTILL.TEACHER.CLASS_MAP, the student's class")
    mine, others = _fold(ours), _fold(theirs)
    exact = {name: i for i, name in enumerate(mine)}
    rest = {_meaning(name): i for name, i in exact.items() if name not in others}
    found: list[list[int]] = [[] for _ in ours]
    for place, name in enumerate(theirs):
        if name in pairs:
            found[list(ours).index(pairs[name])].append(place)
        elif others[place] in exact:
            found[exact[others[place]]].append(place)
        elif _meaning(others[place]) in rest:
            found[rest[_meaning(others[place])]].append(place)
    return found


def _meaning(name: str) -> str:
    return next((min(group) for group in _SAME if name in group), name)
