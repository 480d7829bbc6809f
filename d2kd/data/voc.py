"""Convert a folder in Pascal VOC's layout to COCO json files, one per split.

Reads ``ROOT/ImageSets/Main/SPLIT.txt``, ``ROOT/Annotations/ID.xml`` and the header of
``ROOT/JPEGImages/ID.*``; writes ``OUTPUT/instances_SPLIT.json``. The same input gives the same
bytes.

- VOC's corners are 1-based pixel indices, both inclusive; COCO's box is x, y, width, height from
  the image's corner: x = xmin - 1, y = ymin - 1, width = xmax - x, height = ymax - y.
- "difficult" objects are ordinary objects (``iscrowd`` 0), as in Detectron2's own VOC reader.
- The image size is taken from the image file. Boxes that reach outside it are written as they are:
  d2kd clips them when it trains.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .coco_json import Box, image_size, write_coco

SPLITS = ("train", "val", "test")


def voc_to_coco(
    root: Path, output: Path, classes: Sequence[str] = (), splits: Sequence[str] = ()
) -> dict[str, Path]:
    """Convert the splits of a VOC-style folder.

    Args:
        root: the folder that holds ``Annotations``, ``ImageSets`` and ``JPEGImages``.
        output: where to write; made if needed.
        classes: class names in the order of their ids; all names found, sorted, if empty.
        splits: names of files in ``ImageSets/Main``; of train, val and test those that exist if
            empty.

    Returns:
        The json file of each split.
    """
    folder = root / "ImageSets" / "Main"
    splits = splits or [split for split in SPLITS if (folder / f"{split}.txt").is_file()]
    if not splits:
        raise FileNotFoundError(
            f"{folder} holds none of train.txt, val.txt, test.txt: is this a VOC folder? "
            "The lists have one ID per line."
        )
    files = {path.stem: path for path in sorted((root / "JPEGImages").glob("*.*"))}
    images = {split: read_split(root, split, files) for split in splits}
    found = {box[0] for split in splits for image in images[split] for box in image["boxes"]}
    unknown = sorted(found - set(classes))
    if classes and unknown:
        raise ValueError(f"objects of {unknown} are not among the classes {' '.join(classes)}")
    paths = {}
    output.mkdir(parents=True, exist_ok=True)
    for split in splits:
        paths[split] = output / f"instances_{split}.json"
        write_coco(paths[split], images[split], list(classes) or sorted(found))
    return paths


def read_split(root: Path, split: str, files: dict[str, Path]) -> list[dict[str, Any]]:
    """Read one split in the order of its list; ``files`` maps an id to its image file."""
    images = []
    mismatches = 0
    for line in (root / "ImageSets" / "Main" / f"{split}.txt").read_text("utf-8").splitlines():
        if not line.strip():
            continue
        name = line.strip() if line.strip() in files else line.split()[0]
        if name not in files:
            raise FileNotFoundError(f"{split}.txt names {name}, which {root / 'JPEGImages'} lacks")
        width, height = image_size(files[name])
        size, boxes = read_xml(root / "Annotations" / f"{name}.xml")
        mismatches += size not in (None, (width, height))
        images.append(
            {"file_name": files[name].name, "width": width, "height": height, "boxes": boxes}
        )
    if mismatches:
        print(f"{split}: {mismatches} xml files state another size than the image file's, ignored")
    return images


def read_xml(path: Path) -> tuple[tuple[int, int] | None, list[Box]]:
    """Read one annotation file.

    Returns:
        (width, height) as stated, None if not; and (class, x, y, width, height) of each object,
        in COCO's convention (px).
    """
    try:
        tree = ElementTree.parse(path).getroot()
        width, height = (int(tree.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        size = (width, height) if tree.find("size") is not None else None
        return size, [read_object(item) for item in tree.findall("object")]
    except (ElementTree.ParseError, TypeError, ValueError) as e:
        raise ValueError(f"{path}: not a VOC annotation: {e}") from e


def read_object(item: ElementTree.Element) -> Box:
    """Convert one ``<object>`` to (class, x, y, width, height), 0-based px."""
    name = (item.findtext("name") or "").strip()
    texts = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    corners = [text for text in texts if text is not None]
    if not name or len(corners) < 4:
        raise ValueError("an object lacks its name or a corner of its bndbox")
    xmin, ymin, xmax, ymax = (float(value) for value in corners)
    if not (xmin <= xmax and ymin <= ymax):
        raise ValueError(f"the box {corners} of {name!r} has its corners in the wrong order")
    return name, xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1
