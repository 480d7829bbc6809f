"""One xml file in Pascal VOC's format."""

import codecs
import math
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from ...errors import ConfigError
from ...file_io import read_bytes
from ..coco_json import Box

_MAX_BYTES = 2**24
_MAX_DEPTH = 100
_DECLARATION = re.compile(rb"""\A(?:\xef\xbb\xbf)?<\?xml[^>]*?encoding=["']([\w.-]+)["'][^>]*\?>""")
_LOST = "\ufffd"  # what stands for a letter in an unknown encoding


class Annotation(NamedTuple):
    """What one file says."""

    size: tuple[float, float] | None  # width and height (px), None where they are not stated
    boxes: list[Box]
    filename: str
    polygons: list[list[float] | None]  # of each box, x, y, x, y ... px; [] if it cannot be read


def read_xml(path: Path) -> Annotation:
    """Read one annotation file; boxes in COCO's convention (px).

    Raises:
        ConfigError: it cannot be read, declares entities, or an object in it is incomplete.
    """
    data = read_bytes(path, _MAX_BYTES, "a VOC annotation")
    try:
        tree = _parse(data)
        objects = tree.findall("object")
        return Annotation(
            _size(tree),
            [read_object(item) for item in objects],
            (tree.findtext("filename") or "").strip(),
            [read_polygon(item) for item in objects],
        )
    except (ElementTree.ParseError, expat.ExpatError, LookupError, ValueError) as e:
        raise ConfigError(f"{path}: not a VOC annotation: {' '.join(str(e).split())}") from None


def read_object(item: ElementTree.Element) -> Box:
    """Convert one ``<object>`` to (class, x, y, width, height), 0-based px."""
    name = (item.findtext("name") or "").strip()
    texts = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    corners = [text for text in texts if text is not None]
    if not name or len(corners) < 4:
        turned = " (it has a robndbox, a turned box)" if item.find("robndbox") is not None else ""
        raise ValueError(f"an object lacks its name or a corner of its bndbox{turned}")
    if _LOST in name:
        raise ValueError(f"the class name {name!r} is in an encoding that the file does not state")
    if len(item.findall("bndbox")) > 1:
        raise ValueError(f"an object {name!r} has several bndbox")
    xmin, ymin, xmax, ymax = (float(value) for value in corners)
    if not all(math.isfinite(value) for value in (xmin, ymin, xmax, ymax)):
        raise ValueError(f"the box {corners} of {name!r} has a corner that is no number")
    if not (xmin <= xmax and ymin <= ymax):
        raise ValueError(f"the box {corners} of {name!r} has its corners in the wrong order")
    return name, xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1


def read_polygon(item: ElementTree.Element) -> list[float] | None:
    """The ``<polygon>`` of an object, of ``<x1><y1>...`` or ``<pt><x><y></pt>...``; 0-based px."""
    polygon = item.find("polygon")
    if polygon is None:
        return None
    texts = [x.text or "" for x in polygon.iter() if re.fullmatch(r"[xy]\d*", x.tag)]
    try:
        values = [float(text) - 1 for text in texts]
    except ValueError:
        return []
    whole = len(values) >= 6 and len(values) % 2 == 0 and all(map(math.isfinite, values))
    return values if whole else []


def _parse(data: bytes) -> ElementTree.Element:
    data = _in_utf8(data)
    _check(data)
    return ElementTree.fromstring(data)


def _in_utf8(data: bytes) -> bytes:
    """The text in UTF-8 without its first line that states another encoding.

    Letters that are not in the encoding are replaced: Windows' tools write paths in their own.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data  # expat reads it
    stated = _DECLARATION.match(data)
    encoding = stated[1].decode("ascii") if stated else "utf-8-sig"
    rest = data[stated.end() :] if stated else data
    return rest.decode(encoding, errors="replace").encode()


def _check(data: bytes) -> None:
    """Refuse entities, which can multiply and name other files, and what is nested too deep."""
    depth = 0

    def start(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deep")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    def entity(*_: object) -> None:
        raise ValueError("it declares entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.EntityDeclHandler = entity
    parser.Parse(data, True)


def _size(tree: ElementTree.Element) -> tuple[float, float] | None:
    try:
        width, height = (float(tree.findtext(f"size/{x}", "0")) for x in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if tree.find("size") is not None else None
