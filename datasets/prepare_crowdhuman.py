#!/usr/bin/env python
"""Convert CrowdHuman's odgt files to COCO json files, full bodies as boxes.

Reads ``ROOT/annotation_{train,val}.odgt`` and the headers of ``ROOT/Images/ID.jpg``; writes
``ROOT/annotations/crowdhuman_{train,val}.json``.

- Boxes are the full-body ones (fbox), as they are: they may reach outside their image. Those
  without width or height are dropped.
- Everything that is not a person, or is marked to be ignored, becomes a crowd annotation: training
  does without it, the evaluator neither rewards nor punishes detections there.
- An image without annotations is kept, and reported.
- Nothing is written unless all of it can be read.
"""

import argparse
import json
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from d2kd.data.pixels import image_size
from d2kd.file_io import write_atomically

SPLITS = ("train", "val")


def convert(root: Path, split: str) -> dict[str, Any]:
    """One split as a COCO dictionary.

    Args:
        root: folder with the odgt files and ``Images``.
        split: "train" or "val".

    Raises:
        FileNotFoundError: the odgt file or images are missing.
        ValueError: a line or an image that cannot be read, or no line at all; the message has the
            line's number.
    """
    path = root / f"annotation_{split}.odgt"
    lines = path.read_bytes().splitlines()
    records = [read_line(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise ValueError(f"{path} is empty: download it again.")
    sizes = image_sizes(root / "Images", [name for name, _ in records])
    annotations = [
        {"image_id": index, "category_id": 1, "area": box[2] * box[3], "bbox": box} | crowd
        for index, (_, boxes) in enumerate(records, 1)
        for box, crowd in boxes
    ]
    return {
        "images": [
            {"id": index, "file_name": f"{name}.jpg", "width": size[0], "height": size[1]}
            for index, ((name, _), size) in enumerate(zip(records, sizes, strict=True), 1)
        ],
        "annotations": [{"id": n} | x for n, x in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": "person"}],
    }


def read_line(path: Path, number: int, line: bytes) -> tuple[str, list[tuple[list, dict]]]:
    """ID of an image, and its boxes (x, y, width, height in px) with their "iscrowd"."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number} is not json: {error}") from error
    try:
        boxes = [(full_box(x), {"iscrowd": int(is_ignored(x))}) for x in record["gtboxes"]]
        return record["ID"], [(box, crowd) for box, crowd in boxes if box[2] > 0 and box[3] > 0]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}, line {number}: {type(error).__name__}: {error}. Each line needs ID and "
            "gtboxes, each box tag and fbox (x, y, width, height)."
        ) from error


def full_box(annotation: dict) -> list[float]:
    """The full-body box, x, y, width, height in px."""
    x, y, width, height = box = annotation["fbox"]
    if not all(map(math.isfinite, box)):
        raise ValueError(f"fbox is {box}")
    return [x, y, width, height]


def is_ignored(annotation: dict) -> bool:
    """Whether it is not a person, or the annotators marked it to be ignored."""
    return annotation["tag"] != "person" or bool(annotation.get("extra", {}).get("ignore", 0))


def image_sizes(folder: Path, names: list[str]) -> list[tuple[int, int]]:
    """Width and height of each image, px, from its header."""
    paths = [folder / f"{name}.jpg" for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of {len(names):,} images are not in {folder}, the first "
            f"{', '.join(missing[:3])}. Unpack all archives of CrowdHuman there."
        )
    with ThreadPoolExecutor() as pool:
        return list(pool.map(image_size, paths))


def report(path: Path, coco: dict[str, Any]) -> None:
    """Print what a split holds."""
    regions = sum(x["iscrowd"] for x in coco["annotations"])
    persons = len(coco["annotations"]) - regions
    print(
        f"{path}: {len(coco['images']):,} images, {persons:,} persons, {regions:,} ignore regions"
    )
    annotated = {x["image_id"] for x in coco["annotations"]}
    empty = [x["file_name"] for x in coco["images"] if x["id"] not in annotated]
    if empty:
        more = ", ..." if len(empty) > 3 else ""
        print(f"  {len(empty):,} images without annotations, kept: {', '.join(empty[:3])}{more}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "crowdhuman"
    parser.add_argument("--root", type=Path, default=default, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="default: ROOT/annotations")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    args = parser.parse_args()
    output = args.output or args.root / "annotations"
    try:
        converted = {split: convert(args.root, split) for split in args.splits}
        output.mkdir(parents=True, exist_ok=True)
        for split, coco in converted.items():
            path = output / f"crowdhuman_{split}.json"
            write_atomically(path, lambda p, c=coco: p.write_text(json.dumps(c)))
            report(path, coco)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
