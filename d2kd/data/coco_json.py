"""Writing COCO's json format, and the sizes of image files."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

EXIF_ORIENTATION = 0x0112  # 5 to 8: width and height change places when the image is read


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height (px) from an image's header, as Detectron2 reads the image."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except OSError as e:
        raise ValueError(f"{path}: not an image: {e}") from e


def write_coco(path: Path, images: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
    """Write one split as a json file; the same input gives the same bytes.

    Args:
        path: the file.
        images: dicts of file_name, width, height and boxes: (class, x, y, width, height) in px.
        classes: names in the order of their ids, from 1.
    """
    path.write_text(json.dumps(to_coco(images, list(classes))) + "\n", encoding="utf-8")


def to_coco(images: list[dict[str, Any]], classes: list[str]) -> dict[str, Any]:
    """Number images, objects and classes from 1, in their order, into COCO's json format."""
    coco = {
        "info": {"description": "converted by d2kd"},
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
