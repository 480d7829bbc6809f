"""What is wrong with a data set in COCO's json format, as a list to read."""

import filecmp
import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import combinations, compress
from numbers import Real
from typing import Any

from detectron2.structures import BoxMode

from .catalog import FEW, few_images
from .class_names import matching
from .class_table import LONGEST
from .coco_json import read_coco
from .findings import lines_of
from .folder import Split
from .image_problems import image_problems
from .listing import listed, repeated
from .records import check_json
from .small_boxes import small_boxes

_STRIDE = 8  # px


def find_problems(split: Split, read_images: bool = True, train: bool = True) -> list[str]:
    """List what is wrong with one split; nothing is changed.

    Args:
        split: see `read_dataset_folder`.
        read_images: also decode each image, and compare its size with the json file's; without,
            only missing files are found.
        train: whether it is trained on.

    Returns:
        One line for each kind of problem, with its count and the first examples.

    Raises:
        ConfigError: the json file does not have COCO's structure.
    """
    checked = check_json(split.json, split.images, "any")
    coco, kept = checked.coco, list(compress(checked.coco["annotations"], checked.annotations.kept))
    problems = image_problems(split.images, coco["images"], read_images)
    problems += lines_of(checked.annotations.findings)
    ids = [a.get("id") for a in coco["annotations"]]
    twice = repeated(x for x in ids if isinstance(x, str | Real))
    problems += listed(twice, "annotation ids are used twice")
    problems += listed(_copies(kept), "annotations are there twice, with image, class and box, ids")
    return problems + _without_objects(coco, kept, train)


def find_notes(name: str, split: Split, size: int | None = None) -> list[str]:
    """What is no mistake, but limits what can be learnt, or told.

    Args:
        name: of the split, such as "train".
        split: see `read_dataset_folder`.
        size: of the shorter side of the images in training, px; None looks at no box.
    """
    if name != "train":
        count = len(read_coco(split.json)["images"])
        return [few_images(count)] * (count < FEW)
    if not size:
        return []
    found = small_boxes(sized_records(split), size, size * LONGEST, _STRIDE)
    return [f"{found} have a side below {_STRIDE} px, the finest stride of most detectors, at "
            f"{size} px; 90 % would be larger at {found.size} px"] * (found.total > 0)  # fmt: skip


def sized_records(split: Split) -> list[dict[str, Any]]:
    """Images whose sizes are known, with the boxes that training keeps, for `small_boxes`."""
    checked = check_json(split.json, split.images)
    boxes = defaultdict(list)
    for a in compress(checked.coco["annotations"], checked.annotations.kept):
        boxes[a["image_id"]].append({"bbox": a["bbox"], "bbox_mode": BoxMode.XYWH_ABS})
    known = {image: sides for image, sides in checked.sizes.items() if sides}
    return [{"width": w, "height": h, "annotations": boxes[i]} for i, (w, h) in known.items()]


def _copies(annotations: list[dict[str, Any]]) -> list[Any]:
    """Ids of those with the image, class and box of one before."""
    seen: set[Hashable] = set()
    copies = []
    for a in annotations:
        what = (a["image_id"], a["category_id"], *a["bbox"])
        if what in seen:
            copies.append(a.get("id"))
        seen.add(what)
    return copies


def _without_objects(coco: dict[str, Any], kept: list[dict[str, Any]], train: bool) -> list[str]:
    objects = [a for a in kept if not a.get("iscrowd")]
    used, shown = {a["category_id"] for a in objects}, {a["image_id"] for a in objects}
    names = [x["name"] for x in coco["categories"] if x["id"] not in used]
    files = [x["file_name"] for x in coco["images"] if x["id"] not in shown]
    problems = listed(names, "classes have no object")
    if kept:
        what = "images have no object" + ", and training leaves them out" * train
        problems += listed(files, what)
    return problems


def compare_splits(splits: dict[str, Split], train: Sequence[str] = ("train",)) -> list[str]:
    """List what splits do not share, or should not share.

    Classes that differ or are in another order; classes that have objects in another split and
    none in train; images that are in two splits, also as copies under the same file name.

    Args:
        splits: by their names.
        train: names of those that are trained on, together.

    Raises:
        ConfigError: a json file does not have COCO's structure.
    """
    if not splits:
        return []
    cocos = {name: read_coco(split.json) for name, split in splits.items()}
    first, *others = splits
    problems = [
        f"the classes of {name} {splits[name].classes} are not those of {first} "
        f"{splits[first].classes}, in order"
        for name in others
        if splits[name].classes != splits[first].classes
    ]
    used = {name: _classes_with_objects(coco) for name, coco in cocos.items()}
    trained = [used[name] for name in splits if name in train]
    for name in splits if trained else ():
        unseen = sorted(used[name].difference(*trained))
        problems += listed(unseen, f"classes have objects in {name} and none in train")
    paths = {name: _image_paths(splits[name], coco) for name, coco in cocos.items()}
    for a, b in combinations(splits, 2):
        problems += listed(_shared(paths[a], paths[b]), f"images are in {a} and in {b}")
    return problems


def compare_classes(ours: Sequence[str], teachers: int | Sequence[str]) -> list[str]:
    """What a teacher of so many classes, or of these names in any order, cannot teach."""
    if isinstance(teachers, int):
        if teachers == len(ours):
            return []
        return [
            f"the teacher has {teachers} classes without names, the data set {len(ours)}: methods "
            "that read class predictions will refuse the pair; those that read features alone, "
            "such as PKD, do not"
        ]
    found = zip(ours, matching(ours, teachers), strict=True)
    unknown = [repr(name) for name, places in found if not places]
    return listed(unknown, "class names that the teacher does not know")


def _classes_with_objects(coco: dict[str, Any]) -> set[str]:
    names = {x["id"]: str(x["name"]) for x in coco["categories"]}
    return {names[a["category_id"]] for a in coco["annotations"] if a["category_id"] in names}


def _image_paths(split: Split, coco: dict[str, Any]) -> list[str]:
    return [os.path.normpath(split.images / x["file_name"]) for x in coco["images"]]


def _shared(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Paths of `theirs` that are, or equal byte by byte, one of the same name in `ours`."""
    alike = defaultdict(list)
    for path in ours:
        alike[_name_and_size(path)].append(path)
    return [
        path
        for path in theirs
        if any(_is_copy(other, path) for other in alike.get(_name_and_size(path), []))
    ]


def _name_and_size(path: str) -> tuple[str, int]:
    return os.path.basename(path), os.path.getsize(path) if os.path.isfile(path) else -1


def _is_copy(ours: str, theirs: str) -> bool:
    if ours == theirs or not os.path.isfile(ours):
        return ours == theirs
    return os.path.samefile(ours, theirs) or filecmp.cmp(ours, theirs, shallow=False)
