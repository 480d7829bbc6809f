"""How many objects of each class a data set has, and how small they are."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import compress

import numpy as np

from .folder import Split
from .records import check_json

LONGEST = 5 / 3  # times the shorter side, at most, that detectors resize the longer side to


def class_table(splits: Mapping[str, Split], size: int | None) -> list[dict[str, str]]:
    """A row for each class, by headers: its objects and images in each split.

    Args:
        splits: see `read_dataset_folder`.
        size: of the shorter side of the images in training, px; with it a row has the smallest
            side of a box there, and the side that a tenth of the boxes are below.
    """
    images, sides = defaultdict(list), defaultdict(list)
    for split, files in splits.items():
        checked = check_json(files.json, files.images)
        names = {x["id"]: str(x["name"]) for x in checked.coco["categories"]}
        for a in compress(checked.coco["annotations"], checked.annotations.kept):
            images[split, names[a["category_id"]]].append(a["image_id"])
            if size and (sized := checked.sizes[a["image_id"]]):
                scale = min(size / min(sized), LONGEST * size / max(sized))
                sides[names[a["category_id"]]].append(scale * min(a["bbox"][2:]))
    rows = []
    for name in dict.fromkeys(x for files in splits.values() for x in files.classes):
        row = {"class": name}
        for split in splits:
            found = images[split, name]
            row[f"{split}: objects (images)"] = f"{len(found):,} ({len({*found}):,})"
        for header, part in (("smallest", 0.0), ("10 % below", 0.1)):
            if sides[name]:
                row[f"{header} at {size} px"] = f"{np.quantile(sides[name], part):.1f} px"
        rows.append(row)
    return rows
