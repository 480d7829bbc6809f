#!/usr/bin/env python
"""Write the annotation files that studies/people.yaml and studies/aquarium.yaml need beside theirs.

- coco_people: 400 training images that keep their boxes, and the rest without any.
- aquarium7: validation and test images as one set, since 63 test images are few.
"""

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

from d2kd.file_io import write_atomically

LABELLED = 400
PEOPLE, AQUARIUM = Path("coco_people", "annotations_person"), Path("aquarium7", "annotations")


def divide(coco: dict[str, Any], count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """`count` images with their boxes, drawn with a fixed seed, and the others without boxes."""
    order = sorted(coco["images"], key=lambda image: image["file_name"])
    chosen = {image["id"] for image in random.Random(0).sample(order, count)}
    kept = [x for x in coco["images"] if x["id"] in chosen]
    boxes = [x for x in coco["annotations"] if x["image_id"] in chosen]
    rest = [x for x in coco["images"] if x["id"] not in chosen]
    return {**coco, "images": kept, "annotations": boxes}, {
        **coco, "images": rest, "annotations": [],
    }  # fmt: skip


def join(splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One set of several with the same classes; its files are named SPLIT/FILE."""
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for split, coco in splits.items():
        ids = {x["id"]: len(images) + i for i, x in enumerate(coco["images"], 1)}
        images += [
            {**x, "id": ids[x["id"]], "file_name": f"{split}/{x['file_name']}"}
            for x in coco["images"]
        ]
        boxes += [
            {**x, "id": len(boxes) + i, "image_id": ids[x["image_id"]]}
            for i, x in enumerate(coco["annotations"], 1)
        ]
    categories = [coco["categories"] for coco in splits.values()]
    if any(x != categories[0] for x in categories):
        raise ValueError(f"{' and '.join(splits)} have different classes.")
    return {"images": images, "annotations": boxes, "categories": categories[0]}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    parser.add_argument("--root", type=Path, default=root, help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, help="default: ROOT; or datasets, if it is read-only"
    )
    args = parser.parse_args()
    read = {
        split: json.loads((args.root / AQUARIUM / f"instances_{split}.json").read_text())
        for split in ("val", "test")
    }
    people = json.loads((args.root / PEOPLE / "instances_train.json").read_text())
    labelled, rest = divide(people, LABELLED)
    found = {PEOPLE / f"instances_train_{LABELLED}.json": labelled,
             PEOPLE / "instances_train_rest.json": rest,
             AQUARIUM / "instances_val_test.json": join(read)}  # fmt: skip
    for name, coco in found.items():
        path = (args.output or args.root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(coco)
        write_atomically(path, lambda file, text=text: file.write_text(text))
        print(f"{path}: {len(coco['images']):,} images, {len(coco['annotations']):,} boxes")


if __name__ == "__main__":
    main()
