#!/usr/bin/env python
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

import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SPLITS = ("train", "val", "test")
EXIF_ORIENTATION = 0x0112  # 5 to 8: width and height change places when the image is read


def convert(
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
            f"{folder} holds none of train.txt, val.txt, test.txt: check --root"
        )
    files = {path.stem: path for path in sorted((root / "JPEGImages").glob("*.*"))}
    images = {split: read_split(root, split, files) for split in splits}
    found = {box[0] for split in splits for image in images[split] for box in image["boxes"]}
    unknown = sorted(found - set(classes))
    if classes and unknown:
        raise ValueError(f"objects of {unknown} are not in --classes {' '.join(classes)}")
    paths = {}
    output.mkdir(parents=True, exist_ok=True)
    for split in splits:
        paths[split] = output / f"instances_{split}.json"
        coco = to_coco(images[split], list(classes) or sorted(found))
        paths[split].write_text(json.dumps(coco) + "\n", encoding="utf-8")
    return paths


def read_split(root: Path, split: str, files: dict[str, Path]) -> list[dict[str, Any]]:
    """Read one split in the order of its list; ``files`` maps an id to its image file."""
    images = []
    mismatches = 0
    for line in (root / "ImageSets" / "Main" / f"{split}.txt").read_text("utf-8").splitlines():
        if not line.strip():
            continue
        name = line.split()[0]
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


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height (px) from an image's header, as Detectron2 reads the image."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except OSError as e:
        raise ValueError(f"{path}: not an image: {e}") from e


def read_xml(path: Path) -> tuple[tuple[int, int] | None, list[tuple]]:
    """Read one annotation file.

    Returns:
        (width, height) as stated, None if not; and (class, x, y, width, height) of each object,
        in COCO's convention (px).
    """
    try:
        tree = ElementTree.parse(path).getroot()
        size = None
        if tree.find("size") is not None:
            size = tuple(int(tree.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        return size, [read_object(item) for item in tree.findall("object")]
    except (ElementTree.ParseError, TypeError, ValueError) as e:
        raise ValueError(f"{path}: not a VOC annotation: {e}") from e


def read_object(item: ElementTree.Element) -> tuple[str, float, float, float, float]:
    """Convert one ``<object>`` to (class, x, y, width, height), 0-based px."""
    name = (item.findtext("name") or "").strip()
    corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    if not name or None in corners:
        raise ValueError("an object lacks its name or a corner of its bndbox")
    xmin, ymin, xmax, ymax = (float(value) for value in corners)
    if not (xmin <= xmax and ymin <= ymax):
        raise ValueError(f"the box {corners} of {name!r} has its corners in the wrong order")
    return name, xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1


def to_coco(images: list[dict[str, Any]], classes: list[str]) -> dict[str, Any]:
    """Number images, objects and classes from 1, in their order, into COCO's json format."""
    coco = {
        "info": {"description": "converted by voc_to_coco.py"},
        "licenses": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
        "images": [],
        "annotations": [],
    }
    for image_id, image in enumerate(images, 1):
        boxes = image["boxes"]
        coco["images"].append({"id": image_id, **{k: v for k, v in image.items() if k != "boxes"}})
        for name, *box in boxes:
            annotation = {"id": len(coco["annotations"]) + 1, "image_id": image_id}
            annotation |= {"category_id": classes.index(name) + 1, "bbox": box}
            annotation |= {"area": box[2] * box[3], "iscrowd": 0}
            coco["annotations"].append(annotation)
    return coco


def summary(path: Path) -> tuple[int, dict[str, int]]:
    """Count a json file's images, and the objects of each class."""
    coco = json.loads(path.read_text("utf-8"))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    counts = Counter(names[a["category_id"]] for a in coco["annotations"])
    return len(coco["images"]), {name: counts[name] for name in names.values()}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="the VOC-style folder")
    parser.add_argument("--classes", nargs="+", default=(), help="in order; default: found, sorted")
    parser.add_argument("--splits", nargs="+", default=(), help="default: train val test, if there")
    parser.add_argument("--output", type=Path, help="default: ROOT/annotations")
    args = parser.parse_args(argv)
    output = args.output or args.root / "annotations"
    try:
        paths = convert(args.root, output, args.classes, args.splits)
    except (OSError, ValueError) as e:
        sys.exit(f"error: {e}")
    for path in paths.values():
        images, counts = summary(path)
        objects = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        print(f"{path}: {images:,} images, {sum(counts.values()):,} boxes ({objects})")


if __name__ == "__main__":
    main()
