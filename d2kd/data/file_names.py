"""Names of files that belong together, found although they are written differently."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import unquote

from .image_files import SUFFIXES

_SUFFIXES = {*SUFFIXES, ".heic", ".heif", ".txt", ".xml"}


def without_suffix(name: str) -> str:
    """A name or path without the suffix of an image, a label or an annotation file."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in _SUFFIXES else name


def folded(name: str) -> str:
    """A name without what tools write differently.

    Percent signs are decoded (``%20``), letters composed (e and an accent are one), and case,
    spaces for underscores, and a suffix such as ``.jpg`` do not count.
    """
    text = unicodedata.normalize("NFC", unquote(without_suffix(name)))
    return re.sub(r"[\s_]+", "_", text).casefold()


def pairs(left: Iterable[str], right: Iterable[str]) -> dict[str, str]:
    """Names on the left with the only one on the right that is the same but for its writing."""
    ours, theirs = _groups(left), _groups(right)
    return {
        names[0]: theirs[key][0]
        for key, names in ours.items()
        if len(names) == 1 and len(theirs.get(key, [])) == 1
    }


def _groups(names: Iterable[str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[folded(name)].append(name)
    return groups
