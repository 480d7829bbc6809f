"""The sizes of the images of a split that is converted."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError
from ..text import plain
from .listing import warn_of
from .pixels import PixelError, image_size

logger = logging.getLogger(__name__)


def image_sizes(split: str, images: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Width and height (px) of those that can be read; a warning counts the others.

    Raises:
        ConfigError: none of them can be read; the message says why the first cannot.
    """
    sizes = {}
    for path in images:
        with suppress(PixelError):
            sizes[path] = image_size(path)
    left_out = [path for path in images if path not in sizes]
    warn_of(logger, left_out, "images cannot be read, and are left out", f"{split}: ")
    if left_out and not sizes:
        raise ConfigError(f"{split}: no image can be read. {_reason(left_out[0])}")
    return sizes


def _reason(path: Path) -> str:
    try:
        image_size(path)
    except PixelError as error:
        return plain(error, 300)
    return ""
