"""The image files of a folder, each once."""

import os
from pathlib import Path
from typing import NamedTuple

from PIL import features

from ..file_io import read_head
from .listing import listed

FORMATS = {
    "AVIF": ".avif", "BMP": ".bmp", "DIB": ".dib", "GIF": ".gif", "JPEG": ".jfif .jpe .jpeg .jpg",
    "JPEG2000": ".j2c .j2k .jp2 .jpc .jpf .jpx", "MPO": ".mpo", "PNG": ".apng .png",
    "PPM": ".pbm .pgm .pnm .ppm", "TGA": ".tga", "TIFF": ".tif .tiff", "WEBP": ".webp",
}  # fmt: skip
"""What is read, as Pillow names it: none that it hands to another program, such as EPS."""
SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes.split()}
_NOT_READ = {".arw", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".eps", ".exr", ".fits", ".hdr",
             ".heic", ".heif", ".icns", ".ico", ".jxl", ".nef", ".orf", ".pcx", ".pfm", ".psd",
             ".qoi", ".raw", ".rw2", ".sgi", ".svg", ".xbm", ".xpm"}  # fmt: skip
_READERS = "save them as JPEG or PNG: ImageMagick reads most, heif-convert HEIC, Pillow 12 AVIF"
DRAWING = "drawn by d2kd predict"
"""What the pictures of `d2kd predict` carry in their head: they are no images of a data set."""
_HEAD = 4096  # bytes
_THUMBNAILS = {"__MACOSX", "@eaDir"}  # of archives by macOS, and of Synology


class ImageFiles(NamedTuple):
    """What a folder holds.

    Attributes:
        images: files to read, sorted.
        left_out: lines that say what is left out, with counts and names; maybe none.
    """

    images: list[Path]
    left_out: list[str]


def list_images(folder: Path) -> ImageFiles:
    """Find the images of a folder and of its subfolders, linked ones too, by their suffixes.

    Hidden files and folders (``.name``, such as the ``._name`` that macOS writes) are no images,
    nor are the pictures of `d2kd predict`.
    """
    files, closed = _walk(folder)
    unread = _NOT_READ if features.check("avif") else _NOT_READ | {".avif"}
    images = [x for x in files if x.suffix.lower() in SUFFIXES - unread]
    hidden = {x for x in images if _is_hidden(x.relative_to(folder))}
    drawn = {x for x in images if x not in hidden and is_drawing(x)}
    others = [x for x in files if x.suffix.lower() in unread]
    left_out = [
        *listed(sorted(hidden), "hidden files are left out"),
        *listed(sorted(drawn), "pictures that d2kd predict drew are left out"),
        *listed(others, f"files are of formats that are not read ({_READERS})"),
        *listed(closed, "folders cannot be opened"),
    ]
    return ImageFiles([x for x in images if x not in hidden | drawn], left_out)


def is_drawing(path: Path) -> bool:
    """Whether `d2kd predict` drew a picture."""
    return path.suffix.lower() == ".png" and DRAWING.encode() in read_head(path, _HEAD)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in _THUMBNAILS for part in path.parts)


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """Files and dead links, and the folders that cannot be opened.

    A folder that links make appear twice, or inside itself, is read once, at its own place.
    """
    files: list[Path] = []
    closed: list[Path] = []
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = [folder / name for name in os.listdir(folder)]
        except OSError:
            closed.append(folder)
            continue
        folders = [x for x in entries if os.path.isdir(x)]
        files += [x for x in entries if not os.path.isdir(x)]
        waiting = [x for x in folders if not x.is_symlink()] + waiting
        waiting += [x for x in folders if x.is_symlink()]
    return sorted(files), closed
