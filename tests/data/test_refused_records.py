"""What of a json file stops training, in one line, and that the check says the same."""

import math

import pytest

from d2kd.errors import ConfigError
from tests.data.small_coco import folder, load, problems, refused, small_coco

__all__ = ["folder"]


REFUSED = {
    "bbox is null": (lambda c: c["annotations"][0].update(bbox=None), "boxes are not four numbers"),
    "bbox is missing": (lambda c: c["annotations"][0].pop("bbox"), "boxes are not four numbers"),
    "bbox is of texts": (
        lambda c: c["annotations"][0].update(bbox=["2", "3", "4", "5"]),
        "boxes are not four numbers",
    ),
    "bbox is a dictionary": (
        lambda c: c["annotations"][0].update(bbox={"x": 1}),
        "boxes are not four numbers, ids: 1 (write x, y, width, height in px",
    ),
    "bbox is infinite": (
        lambda c: c["annotations"][0].update(bbox=[1, 1, math.inf, 2]),
        "boxes are not four numbers",
    ),
    "iscrowd is a text": (
        lambda c: c["annotations"][0].update(iscrowd="no"),
        "annotations have an iscrowd that is not 0 or 1, ids: 1 ('no')",
    ),
    "iscrowd is 2": (lambda c: c["annotations"][0].update(iscrowd=2), "an iscrowd that is not 0"),
    "iscrowd is a list": (lambda c: c["annotations"][0].update(iscrowd=[]), "not 0 or 1"),
    "ignore": (lambda c: c["annotations"][0].update(ignore=1), "are marked by ignore"),
    "class twice": (lambda c: c["categories"][1].update(id=3), "class ids are used twice: 3"),
    "class name twice": (
        lambda c: c["categories"][1].update(name="cell"),
        "class names are used twice: cell",
    ),
    "image twice": (
        lambda c: c["images"].append(c["images"][0]),
        "image ids are used more than once: 7",
    ),
    "class is not listed": (
        lambda c: c["annotations"][2].update(category_id=99),
        "annotations are of classes that are not listed, ids: 3",
    ),
    "class is a bool": (
        lambda c: c["annotations"][2].update(category_id=True),
        "annotations[2] has the category_id True",
    ),
    "image id is NaN": (
        lambda c: c["images"][1].update(id=math.nan),
        "images[1] has the id nan",
    ),
    "in parts of the image": (
        lambda c: [a.update(bbox=[0.1, 0.2, 0.3, 0.4]) for a in c["annotations"]],
        "boxes, and all are below 1 px: are they in parts of the image?",
    ),
    "corners": (
        lambda c: [a.update(bbox=[22, 3, 39, 11]) for a in c["annotations"]],
        "none as corners, ids: 1, 2, 3, ... (write x, y, width, height in px, not",
    ),
    "all beside": (
        lambda c: [a.update(bbox=[99, 0, 5, 5]) for a in c["annotations"]],
        "none of them with an area inside its image",
    ),
    "size and file are missing": (
        lambda c: c["images"][0].update(width=None, file_name="x.png"),
        "images have no width and height above 0, and their files cannot be read: x.png",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_stops_training(folder, kind):
    coco = small_coco()
    change, message = REFUSED[kind]
    change(coco)
    assert message in refused(folder, coco)
    try:
        lines = problems(folder)
    except ConfigError as error:
        lines = [str(error) + " (training stops: "]
    assert any(message.split(" (write")[0] in x and " (training stops: " in x for x in lines)


def test_boxes_that_end_a_little_outside_are_no_corners(folder):
    coco = small_coco()
    for a in coco["annotations"]:
        a["bbox"] = [1, 1, 40, 24]  # of the whole image, numbered from 1
    assert len(load(folder, coco)) == 3


@pytest.mark.parametrize("name", [
    "sub\\0.png", "C:\\data\\images\\0.png", "%30.png", "/elsewhere/0.png", "0.PNG", "../x/0.png",
])  # fmt: skip
def test_near_names(folder, name):
    coco = small_coco()
    coco["images"][0]["file_name"] = name
    message = refused(folder, coco)
    assert f"which does not exist (there is {folder}/0.png)" in message


def test_letters_composed_differently(folder):
    (folder / "0.png").rename(folder / "u\u0308.png")
    coco = small_coco()
    coco["images"][0]["file_name"] = "\u00fc.png"
    assert f"(there is {folder}/u\u0308.png)" in refused(folder, coco)


def test_another_suffix_but_of_an_image(folder):
    (folder / "0.png").rename(folder / "0.webp")
    (folder / "0.txt").touch()
    assert f"(there is {folder}/0.webp)" in refused(folder, small_coco())
