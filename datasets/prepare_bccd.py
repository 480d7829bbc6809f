#!/usr/bin/env python
"""Convert the blood-cell data set BCCD and check its numbers.

Source: https://github.com/Shenggan/BCCD_Dataset, its folder BCCD (MIT licence).
"""

import argparse
import os
import sys
from pathlib import Path

from d2kd.data.coco_json import summary
from d2kd.data.voc import voc_to_coco

CLASSES = ("RBC", "WBC", "Platelets")
EXPECTED = {"train": 205, "val": 87, "test": 72}
EXPECTED_BOXES = {"RBC": 4155, "WBC": 372, "Platelets": 361}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "BCCD"
    parser.add_argument("--root", type=Path, default=default, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="default: ROOT/annotations")
    args = parser.parse_args()
    try:
        paths = voc_to_coco(args.root, args.output or args.root / "annotations", CLASSES)
    except (OSError, ValueError) as e:
        sys.exit(
            f"error: {e}\nIf ROOT cannot be written to, give --output datasets/BCCD/annotations"
        )
    counts = {split: summary(path) for split, path in paths.items()}
    images = {split: count for split, (count, _) in counts.items()}
    boxes = {name: sum(c[name] for _, c in counts.values()) for name in CLASSES}
    for split, path in paths.items():
        print(f"{path}: {counts[split][0]} images, {sum(counts[split][1].values()):,} boxes")
    print(", ".join(f"{count:,} {name}" for name, count in boxes.items()))
    if (images, boxes) != (EXPECTED, EXPECTED_BOXES):
        sys.exit(f"error: expected {EXPECTED} images and {EXPECTED_BOXES} boxes: another version?")


if __name__ == "__main__":
    main()
