"""The one reader of pixels: what every command of d2kd sees of an image file.

Pictures with 8 bits are read as Detectron2 reads them, bit by bit: turned as their EXIF entry says,
the first of several frames, without alpha. Of 16-bit values the upper eight bits are taken, in grey
as Pillow takes them in color. Where white is not known, a picture is refused: a scale per picture
would make other pictures of a data set.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageFile

from .image_files import FORMATS

EXIF_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 0x0102  # of TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PAGES = ("GIF", "PNG", "TIFF", "WEBP")  # the second frame of a phone's JPEG is no picture
_NEARLY_BLACK = 15  # of 255: what 12 bits in a 16-bit file come to
_ADVICE = "save it with 8 bits, all images on one scale (datasets/README.md, Pictures)"


class PixelError(ValueError):
    """An image file cannot be read; the message begins with its name."""


class BitDepthError(PixelError):
    """The values of an image have a range that is not known."""


class Examined(NamedTuple):
    """A file that `read_pixels` can read.

    Attributes:
        width, height: of the array, px.
        frames: how many the file has; the first is read.
    """

    width: int
    height: int
    frames: int


def read_pixels(path: str | Path, image_format: str) -> np.ndarray:
    """Read an image.

    Args:
        path: a file, or what Detectron2's PathManager knows.
        image_format: "BGR", "RGB", or another of INPUT.FORMAT.

    Returns:
        np.ndarray: (H, W, C) uint8 in 0..255; float for "YUV-BT.601".

    Raises:
        PixelError: it is no image, cut off or too large, or see `BitDepthError`.
    """
    with _opened(path) as image:
        return convert_PIL_to_numpy(_turned(image, _eight_bits(image)), image_format)


def examine(path: str | Path) -> Examined:
    """Decode a file as `read_pixels` does, JPEG at an eighth of its size to save time.

    Raises:
        PixelError: `read_pixels` would raise it.
    """
    with _opened(path) as image:
        size, frames = image.size, _frames(image)
        image.draft("L", (1, 1))
        decoded = _eight_bits(image)  # before EXIF, which decodes and hides errors
        _turned(image, decoded).convert("RGB")
        return Examined(*_turned_size(image, size), frames)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height (px) as `read_pixels` gives them, from the header alone.

    Raises:
        PixelError: it is no image, or see `BitDepthError`; values are not looked at.
    """
    with _opened(path) as image:
        _check_depth(image)
        return _turned_size(image, image.size)


@contextmanager
def _opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would never end
        raise PixelError(f"{path} cannot be read: it is no file.")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with PathManager.open(str(path), "rb") as file, Image.open(file, formats=formats) as image:
            yield image
    except BitDepthError as error:
        raise BitDepthError(f"{path} {error}") from None
    except Exception as error:  # decoders fail in many ways
        raise PixelError(f"{path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is no image of a format that is read ({', '.join(FORMATS)})"
    text = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
    return text[:200]


def _eight_bits(image: ImageFile.ImageFile) -> Image.Image:
    """The decoded image, of 16-bit values the upper half.

    Raises:
        BitDepthError: the range of the values is not known.
    """
    depth = _check_depth(image)
    image.load()
    image.info.pop("transparency", None)  # not drawn; Pillow would warn about it
    decoded: Image.Image = image
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint16) >> (depth - 8)
        decoded = Image.fromarray(values.astype(np.uint8))
    if depth == 16 and image.format != "PPM":  # its header states white
        _check_range(decoded)
    return decoded


def _check_depth(image: ImageFile.ImageFile) -> int:
    """See `_depth`; raises BitDepthError for more than 16."""
    depth = _depth(image)
    if depth > 16:
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise BitDepthError(f"holds {kind} values, of which white is not known; {_ADVICE}")
    return depth


def _depth(image: ImageFile.ImageFile) -> int:
    """Bits of a value; 32 where they are no plain integers of up to 16 bits."""
    if getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))[0] == 12:
        return 12
    layout = " ".join(str(tile[3]) for tile in image.tile)  # such as "I;16B"
    whole = ";16" in layout and ";16S" not in layout
    if image.mode == "F" or (image.mode == "I" and not whole and image.format != "PPM"):
        return 32
    return 16 if whole or image.mode.startswith("I") else 8


def _check_range(image: Image.Image) -> None:
    grey = image.convert("L") if image.mode == "LA" else image.convert("RGB")
    top = int(np.asarray(grey).max(initial=0))
    if 0 < top <= _NEARLY_BLACK:
        raise BitDepthError(
            f"has 16 bits, but no value reaches 4096 of 65535: if it has 12 or fewer, white is not "
            f"known; {_ADVICE}"
        )


def _turned(image: Image.Image, decoded: Image.Image) -> Image.Image:
    """`decoded`, turned as `image` says, from which it comes."""
    turn = _TURNS.get(_orientation(image))
    return decoded if turn is None else decoded.transpose(turn)


def _turned_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    if image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8):  # Pillow turns TIFF itself
        return size[1], size[0]
    return size


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # damaged EXIF data turns nothing
        return None


def _frames(image: ImageFile.ImageFile) -> int:
    if image.format not in _PAGES:
        return 1
    try:
        frames = getattr(image, "n_frames", 1)
        image.seek(0)
        return frames
    except Exception:  # the first can be whole where others are not
        return 1
