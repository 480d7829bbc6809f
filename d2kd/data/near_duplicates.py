"""Images that look alike, such as frames of one video, or a photograph and its smaller copy."""

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..file_io import sha256_of
from .pixels import read_pixels

logger = logging.getLogger(__name__)

_BITS = 10  # of the 64 of a hash, that may differ


def group_alike(paths: Sequence[Path]) -> list[list[int]]:
    """The places of images in groups that look alike; most groups have one.

    By a perceptual hash, which a change of size, quality or brightness hardly changes. Where more
    than half of the images look alike, as a fixed camera sees them, only equal files do.
    """
    try:
        import imagehash
    except ImportError:
        logger.warning("near-duplicates are not looked for: pip install imagehash.")
        return [[place] for place in range(len(paths))]

    def code(path: Path) -> int:
        return int(str(imagehash.phash(Image.fromarray(read_pixels(path, "RGB")))), 16)

    with ThreadPoolExecutor(8) as pool:
        hashes = np.fromiter(pool.map(code, paths), np.uint64, len(paths))
    groups = _grouped(_labels(hashes))
    if (largest := max(map(len, groups))) > max(2, len(paths) / 2):
        logger.warning(
            f"{largest:,} of {len(paths):,} images look alike, as those of a fixed camera do: only "
            "equal files are kept together."
        )
        groups = _grouped(map(sha256_of, paths))
    return groups


def _labels(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(N,) the same number for images that are alike, also by way of others."""
    codes, places = np.unique(hashes, return_inverse=True)
    labels = np.full(len(codes), -1)
    for first in range(len(codes)):
        waiting = [first] if labels[first] < 0 else []
        labels[waiting] = first
        while waiting:
            near = (labels < 0) & (np.bitwise_count(codes[waiting.pop()] ^ codes) <= _BITS)
            labels[near] = first
            waiting += np.flatnonzero(near).tolist()
    return labels[places]


def _grouped(labels: Iterable[Hashable]) -> list[list[int]]:
    groups = defaultdict(list)
    for place, label in enumerate(labels):
        groups[label].append(place)
    return list(groups.values())
