"""Lines of a list of problems."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..text import plain

_SHOWN = 3


def listed(found: Iterable[Any], what: str) -> list[str]:
    """One line with the number of things found, what they are and the first of them; or none."""
    found = list(found)
    if not found:
        return []
    shown = ", ".join(plain(" ".join(str(x).split("\n")), 100) for x in found[:_SHOWN])
    more = ", ..." if len(found) > _SHOWN else ""
    return [f"{len(found):,} {what}: {shown}{more}"]


def warn_of(logger: logging.Logger, names: Iterable[object], what: str, before: str = "") -> None:
    """Log the line of `listed`, if there is one, as a warning with `before` in front of it."""
    for line in listed(map(plain, names), what):
        logger.warning(f"{before}{line}")


def repeated(values: Iterable[Any]) -> list[Any]:
    """The values that come more than once."""
    return [value for value, count in Counter(values).items() if count > 1]
