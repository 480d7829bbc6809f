"""From a photo to what a file of `d2kd export` takes, and from its masks to those of the photo.

Needs numpy and Pillow alone.
"""

import sys
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
from PIL import Image

Data = Dict[str, Any]
FORMATS = "AVIF BMP DIB GIF JPEG JPEG2000 MPO PNG PPM TGA TIFF WEBP".split()
"""What is read: none that Pillow hands to another program, such as EPS."""
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 0x0102  # of EXIF and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NEARLY_BLACK = 15  # of 255: what 12 bits in a 16-bit file come to


def open_image(path: str | Path) -> Image.Image:
    """A photo as RGB, turned as its EXIF data say; of 16-bit values the upper eight bits.

    SystemExit, in one line, if it is no image, or one of which white is not known.
    """
    Image.init()
    try:
        with Image.open(path, formats=[x for x in FORMATS if x in Image.OPEN]) as image:
            bits = _depth(image)
            photo = _turned(image)
    except Exception as error:  # decoders fail in many ways
        sys.exit(f"{path} cannot be read as an image: {' '.join(str(error).split())}")
    if bits > 16:
        sys.exit(f"{path} holds floating-point, 32-bit or signed values: save it with 8 bits")
    if photo.mode.startswith("I"):
        values = np.asarray(photo).astype(np.uint16) >> (bits - 8)
        photo = Image.fromarray(values.astype(np.uint8))
    photo = photo.convert("RGB")
    if bits == 16 and image.format != "PPM" and 0 < np.asarray(photo).max() <= _NEARLY_BLACK:
        sys.exit(f"{path} has 16 bits, but no value reaches 4096 of 65535: save it with 8 bits")
    return photo


def _turned(image: Image.Image) -> Image.Image:
    """A copy, turned as the EXIF data say; damaged ones turn nothing."""
    image.load()  # which turns TIFF itself
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        turn = None
    return image.copy() if turn is None else image.transpose(turn)


def _depth(image: Any) -> int:
    """Bits of a value; 32 where they are no plain integers of up to 16 bits."""
    if getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))[0] == 12:
        return 12
    layout = " ".join(str(tile[3]) for tile in image.tile)  # such as "I;16B"
    whole = ";16" in layout and ";16S" not in layout
    if image.mode == "F" or (image.mode == "I" and not whole and image.format != "PPM"):
        return 32
    return 16 if whole or image.mode.startswith("I") else 8


def fit(height: int, width: int, about: Data) -> Tuple[int, int, float]:
    """Height and width that an image is resized to, and the factor.

    That is `resize`, the shorter side and the longest that the other may have, where `size` has
    place for it; otherwise, and where a file has no `resize`, what fills `size`.
    """
    scale = min(about["size"][0] / height, about["size"][1] / width)
    if about.get("resize"):
        shortest, longest = about["resize"]
        wanted = min(shortest / min(height, width), longest / max(height, width))
        wanted = wanted if shortest else 1.0
        sides = [int(side * wanted + 0.5) for side in (height, width)]
        if sides[0] <= about["size"][0] and sides[1] <= about["size"][1]:
            scale = wanted
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)), scale


def prepare(image: Image.Image, about: Data) -> Tuple[np.ndarray, float]:
    """An image as (1, 3, H, W) float32, resized to fit and padded right and below; the factor."""
    height, width = about["size"]
    h, w, scale = fit(image.height, image.width, about)
    pixels = np.asarray(image.resize((w, h), Image.Resampling.BILINEAR), np.float32)
    if about["channels"] == "BGR":
        pixels = pixels[:, :, ::-1]
    if "size" in about.get("dynamic", []):  # no more padding than the detector needs
        height, width = (-(-x // about["multiple"]) * about["multiple"] for x in (h, w))
    padded = np.empty((1, 3, height, width), np.float32)
    padded[:] = np.reshape(about["pad_value"], (1, 3, 1, 1))
    padded[0, :, :h, :w] = pixels.transpose(2, 0, 1)
    return padded, scale


def paste_raw(mask: np.ndarray, box: np.ndarray, size: Tuple[int, int]) -> Image.Image:
    """Probabilities (M, M) of a box as a mask of the whole image."""
    (x0, y0), (w, h) = box[:2], (box[2:] - box[:2]) / len(mask)  # of a cell, px
    affine = 1 / w, 0, 1 - x0 / w, 0, 1 / h, 1 - y0 / h  # 1: a rim of zeros
    method, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    whole = Image.fromarray(np.pad(mask, 1)).transform(size, method, affine, bilinear)
    return Image.fromarray(np.asarray(whole) >= 0.5).convert("L")


def enlarge(mask: np.ndarray, size: Tuple[int, int], about: Data) -> Image.Image:
    """A mask (H, W) of the prepared image as one of the image."""
    h, w, _ = fit(size[1], size[0], about)
    return Image.fromarray(mask[:h, :w]).convert("L").resize(size, Image.Resampling.NEAREST)
