"""One reader of annotations: what it takes and leaves out, and that the check agrees."""

import json
import math
from itertools import islice

import pytest
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from d2kd.data import add_data_config, build_train_loader, labelled_test_data, load_dataset
from d2kd.errors import ConfigError
from tests.data.small_coco import (
    NAME,
    POLYGON,
    folder,
    load,
    objects,
    problems,
    refused,
    small_coco,
)

__all__ = ["folder"]


def test_equals_detectron2(folder):
    """But for the area, which Detectron2 leaves out."""
    coco = small_coco()
    coco["images"].reverse()
    coco["annotations"][0]["keypoints"] = [1, 2, 2, 30.25, 4, 0]
    ours = load(folder, coco, "polygon")
    theirs = load_coco_json(str(folder / "train.json"), str(folder), NAME)
    assert [x.pop("area") for x in objects(ours)] == [70.5] * 6
    assert ours == theirs
    assert problems(folder) == []
    without = load(folder, coco)
    assert not any("segmentation" in x for x in objects(without))
    assert [x["bbox"] for x in objects(without)] == [x["bbox"] for x in objects(theirs)]


IDS = {
    "annotation ids are texts": lambda c: [a.update(id=f"a{a['id']}") for a in c["annotations"]],
    "annotation ids are missing": lambda c: [a.pop("id") for a in c["annotations"]],
    "annotation ids start at 0": lambda c: [a.update(id=a["id"] - 1) for a in c["annotations"]],
    "annotation ids are lists": lambda c: [a.update(id=[1]) for a in c["annotations"]],
    "annotation ids are huge": lambda c: [a.update(id=2**80 + a["id"]) for a in c["annotations"]],
    "image ids are fractions": lambda c: change_images(c, lambda i: i + 0.5),
    "image ids are texts": lambda c: change_images(c, lambda i: f"im{i}"),
    "image ids are numbers as text": lambda c: change_images(c, str),
    "image ids are padded texts, annotations numbers": lambda c: [
        x.update(id=f"{x['id']:06}") for x in c["images"]
    ],
    "image ids are numbers, annotations texts": lambda c: [
        a.update(image_id=str(a["image_id"])) for a in c["annotations"]
    ],
    "image ids are floats": lambda c: change_images(c, float),
    "class ids are texts": lambda c: change_classes(c, lambda i: f"c{i}"),
    "class ids start at 0": lambda c: change_classes(c, {3: 0, 8: 1}.get),
    "class ids are negative": lambda c: change_classes(c, {3: -7, 8: -2}.get),
    "class ids are numbers, annotations texts": lambda c: [
        a.update(category_id=str(a["category_id"])) for a in c["annotations"]
    ],
}


def change_images(coco, change):
    for x in coco["images"]:
        x["id"] = change(x["id"])
    for a in coco["annotations"]:
        a["image_id"] = change(a["image_id"])


def change_classes(coco, change):
    for x in coco["categories"]:
        x["id"] = change(x["id"])
    for a in coco["annotations"]:
        a["category_id"] = change(a["category_id"])


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_any_kind(folder, kind):
    coco = small_coco()
    plain = load(folder, coco)
    IDS[kind](coco)
    found = load(folder, coco)
    assert [r["file_name"] for r in found] == [r["file_name"] for r in plain]
    assert objects(found) == objects(plain)
    assert [r["image_id"] for r in found] == [x["id"] for x in coco["images"]]
    linked = "6 annotations write the id of their image or class in another way than it is listed"
    assert [x.startswith(linked) for x in problems(folder)] == [True] * ("annotations " in kind)


SEGMENTATIONS = {
    "dictionaries": [[{"x": 1, "y": 2}, {"x": 5, "y": 2}, {"x": 5, "y": 9}]],
    "flat": POLYGON,
    "text": str([POLYGON]),
    "two points": [[2, 3, 12, 11]],
    "odd": [[2, 3, 12, 11, 5, 6, 7]],
    "nested points": [[[1, 2], [5, 2], [5, 9], [1, 9]]],
    "empty polygon": [[]],
    "empty": [],
    "null": None,
    "number": 3,
    "NaN": [[math.nan, 3, 12, 3, 12, 11]],
    "texts": [["2", "3", "12", "3", "12", "11"]],
    "RLE without size": {"counts": [0, 960]},
    "RLE of another size": {"counts": [0, 960], "size": [40, 24]},
    "RLE too short": {"counts": [0, 900], "size": [24, 40]},
    "RLE of no runs": {"counts": "\u1234", "size": [24, 40]},
    "RLE without counts": {"size": [24, 40]},
}


@pytest.mark.parametrize("kind", SEGMENTATIONS)
def test_a_bad_mask_costs_no_box(folder, kind):
    coco = small_coco()
    coco["annotations"][3]["segmentation"] = SEGMENTATIONS[kind]
    assert len(objects(load(folder, coco))) == 6
    for masks in ("polygon", "bitmask"):
        assert "1 objects without a mask: 4 (give each" in refused(folder, coco, masks)
    assert len(found := problems(folder)) == 1
    assert found[0].startswith("1 objects have no mask that can be read, and mask detectors refuse")


def test_few_objects_without_a_mask_are_left_out(folder, caplog):
    """Of 101 objects one; an evaluation of masks needs all."""
    coco = small_coco()
    for i in range(7, 102):
        coco["annotations"].append({**coco["annotations"][0], "id": i})
    coco["annotations"][3]["segmentation"] = [[2, 3, 12, 11]]
    assert len(objects(load(folder, coco, "polygon"))) == 100
    assert "1 objects have no mask that can be read and are left out, ids: 4" in caplog.text
    assert "train without them, but cannot be tested on the set, ids: 4" in problems(folder)[0]
    assert "1 objects without a mask: 4" in refused(folder, coco, "all")
    coco["annotations"][4]["segmentation"] = []
    assert "2 objects without a mask: 4, 5" in refused(folder, coco, "polygon")
    assert "mask detectors refuse the set, ids: 4, 5" in problems(folder)[0]


def test_crowds_need_no_mask_in_training(folder):
    coco = small_coco()
    coco["annotations"][3].update(iscrowd=1, segmentation=[])
    assert [len(objects(load(folder, coco, x))) for x in ("polygon", "bitmask")] == [6, 6]
    assert "1 objects without a mask: 4" in refused(folder, coco, "all")


def test_masks_that_are_read(folder):
    coco = small_coco()
    coco["annotations"][0]["segmentation"].append([1, 2])
    coco["annotations"][1]["segmentation"] = {"counts": [0, 960], "size": [24, 40]}
    assert "1 objects with an RLE as mask, ids: 2 (set INPUT.MASK_FORMAT bitmask" in (
        refused(folder, coco, "polygon")
    )
    first, second = objects(load(folder, coco, "bitmask"))[:2]
    assert first["segmentation"] == [POLYGON]
    assert second["segmentation"] == {"counts": b"0Pn0", "size": [24, 40]}
    assert problems(folder) == []
    coco["annotations"][1]["iscrowd"] = 1
    assert len(objects(load(folder, coco, "polygon"))) == 6
    for a in coco["annotations"]:
        a["segmentation"] = []
    load(folder, coco)
    assert problems(folder) == []  # boxes alone


LEFT_OUT = {
    "1 boxes have NaN values": lambda a, c: a.update(bbox=[math.nan, 1, 2, 3]),
    "1 boxes have no width or height": lambda a, c: a.update(bbox=[4, 4, -3, 5]),
    "1 boxes lie outside of their image": lambda a, c: a.update(bbox=[40, 1, 2, 3]),
    "1 annotations are of images that are not": lambda a, c: a.update(image_id=99),
}


@pytest.mark.parametrize("key", ["DATASETS.TRAIN", "DATASETS.TEST"])
@pytest.mark.parametrize("line", LEFT_OUT)
def test_what_is_left_out_is_counted_once(folder, line, key, caplog):
    coco = small_coco()
    LEFT_OUT[line](coco["annotations"][1], coco)
    assert len(objects(load(folder, coco, key=key))) == 5
    load_dataset(NAME, key)
    messages = [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]
    assert len(messages) == 1 and line in messages[0] and "left out" in messages[0]
    assert any(x.startswith(line) and "left out" in x for x in problems(folder))


def test_sizes_from_the_files(folder, caplog):
    plain = load(folder, small_coco())
    coco = small_coco()
    del coco["images"][0]["width"]
    coco["images"][1].update(width="40", height=-24)
    coco["images"][2].update(width=40.0)
    assert load(folder, coco) == plain
    assert type(plain[2]["width"]) is int
    line = "2 images have no width and height above 0; those of the files are taken: 0.png, 1.png"
    assert line in caplog.text and problems(folder) == [line]


@pytest.mark.parametrize("area", [None, "70", math.nan, -1, "missing"])
def test_area_of_the_box(folder, area, caplog):
    coco = small_coco()
    coco["annotations"][1]["area"] = area
    if area == "missing":
        del coco["annotations"][1]["area"]
    found = objects(load(folder, coco))
    assert [x["area"] for x in found] == [70.5, 80.0, *[70.5] * 4]
    line = "1 objects have no area; their boxes' is taken for AP by size, ids: 2"
    assert line in caplog.text and line in problems(folder)


def test_twice_the_same(folder):
    coco = small_coco()
    coco["annotations"].append({**coco["annotations"][4], "id": 70})
    assert len(objects(load(folder, coco))) == 7
    assert problems(folder) == ["1 annotations are there twice, with image, class and box, ids: 70"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings(folder, encoding):
    coco = small_coco()
    coco["categories"][0]["name"] = "Zelle, groß"
    load(folder, json.dumps(coco, ensure_ascii=False).encode(encoding))
    assert MetadataCatalog.get(NAME).thing_classes == ["Zelle, groß", "debris"]


def test_extra_fields_and_only_crowds(folder):
    coco = small_coco()
    coco["categories"][0].update(supercategory=None, keypoints=None)
    coco["annotations"][0].update(attributes={"a": [1]}, score=None, iscrowd=True)
    coco["annotations"][1].update(iscrowd=None)
    coco["annotations"][2].update(iscrowd=1.0)
    found = objects(load(folder, coco))
    assert [x["iscrowd"] for x in found] == [1, 0, 1, 0, 0, 0]
    assert problems(folder) == []


def test_the_same_classes_with_other_ids_are_told_from_others(folder):
    load(folder, small_coco())
    for change, text in (
        (change_classes, "the category ids 4, 9 now, and had 3, 8: give the"),
        (rename, "the classes cell4, debris9 now, and had cell, debris: give"),
    ):
        coco = small_coco()
        change(coco, {3: 4, 8: 9}.get)
        (folder / "train.json").write_text(json.dumps(coco))
        with pytest.raises(ConfigError, match=f"train.json. has {text}"):
            load_dataset(NAME)


def rename(coco, change):
    for x in coco["categories"]:
        x["name"] += str(change(x["id"]))


@pytest.mark.parametrize("kind", ["none", "malformed", "too few", "none in an image"])
def test_objects_without_key_points(folder, kind, caplog):
    """Detectron2 takes the first object's word for all, and fails on lists of several lengths."""
    coco, points = small_coco(), [3, 4, 2, 5, 6, 1]
    for a in coco["annotations"]:
        a.update(keypoints=points, num_keypoints=2)
    changed = coco["annotations"][2 : 4 if kind == "none in an image" else 3]
    for a in changed:
        a["keypoints"] = {"malformed": [1, 2, "x"] * 2, "too few": [1, 2, 2]}.get(kind, [])
    load(folder, coco)
    MetadataCatalog.get(NAME).set(keypoint_names=("a", "b"), keypoint_flip_map=())
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = (NAME,), (NAME,), 0
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = True, 0
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.SOLVER.IMS_PER_BATCH = 2, 1
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = "none", (24,), 24
    records, mapper = labelled_test_data(cfg)
    batches = [x for (x,) in islice(build_train_loader(cfg), 3)]
    line = f"{len(changed)} of 6 objects do not have 2 key points; theirs are taken as unseen"
    assert f"DATASETS.TRAIN: '{NAME}': {line}" in caplog.text
    for found in ({x["image_id"]: x for x in batches}, {x["image_id"]: mapper(x) for x in records}):
        seen = {i: x["instances"].gt_keypoints.tensor[..., 2].tolist() for i, x in found.items()}
        middle = [[0, 0]] * len(changed) + [[2, 1]] * (2 - len(changed))
        assert seen == {7: [[2, 1]] * 2, 8: middle, 9: [[2, 1]] * 2}
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    with pytest.raises(ConfigError, match="objects of 2 key points, and none of 17: set MODEL.ROI"):
        build_train_loader(cfg)
