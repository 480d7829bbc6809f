"""The pictures that `d2kd predict` writes: each image's own, and none in the place of a user's."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..data.image_files import DRAWING, is_drawing
from ..errors import ConfigError
from ..text import plain


def drawing_paths(files: Sequence[Path], root: Path, output: Path) -> list[Path]:
    """A file for the drawing of each image: ``NAME.png``, or ``NAME.jpg.png`` and so on.

    Args:
        files: images in the folder `root`.
        root: their folder.
        output: the folder for the drawings.

    Raises:
        ConfigError: `output` is `root` or no folder, or a picture of the user's would be lost.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {plain(output)} is a file: name a folder.")
    if output.resolve() == root.resolve():
        raise ConfigError(
            f"--output {plain(output)} is the folder of the images: name another, such as "
            f"{plain(output / 'predictions')}."
        )
    short = [output / path.relative_to(root).with_suffix(".png") for path in files]
    times = Counter(map(_folded, short))
    taken: set[str] = set()
    paths = []
    for path, first in zip(files, short, strict=True):
        free = (x for x in _names(first, path.name) if _folded(x) not in taken)
        paths.append(next(x for x in free if x is not first or times[_folded(x)] == 1))
        taken.add(_folded(paths[-1]))
    for path in paths:
        if path.exists() and not is_drawing(path):
            raise ConfigError(
                f"{plain(path)} exists and is no picture that d2kd predict drew: name another "
                "folder with --output."
            )
    return paths


def save_drawing(path: Path, rgb: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, marked as a drawing; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = PngInfo()
    mark.add_text("Software", DRAWING)
    Image.fromarray(rgb).save(path, "PNG", pnginfo=mark)


def _names(first: Path, name: str) -> Iterator[Path]:
    yield first
    yield first.with_name(f"{name}.png")
    yield from (first.with_name(f"{name}-{number}.png") for number in count(2))


def _folded(path: Path) -> str:
    """What is equal for paths that some file systems take for the same."""
    return unicodedata.normalize("NFC", str(path)).casefold()
