"""Stored detections: the file, the classes, the images, and what augmentation does to boxes."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import transform_instance_annotations
from detectron2.structures import BoxMode
from torch.testing import assert_close

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.data import build_train_loader, register_custom_datasets
from d2kd.data.carried import carried, with_detections
from d2kd.data.detections import COCO_NAMES, read_detections
from d2kd.errors import ConfigError
from tests.helpers import write_config

NAMES = {1: "red", 2: "green"}


def entry(image=0, category=1, box=(8, 4, 20, 10), score=0.5, **more):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score, **more}


def written(folder, data):
    path = folder / "detections.json"
    path.write_text(json.dumps(data))
    return path


def test_cocos_ids():
    places = dict(zip(COCO_NAMES, range(80), strict=True))
    expected = {1: 0, 11: 10, 13: 11, 25: 23, 27: 24, 28: 25, 31: 26, 44: 39, 46: 40, 65: 59,
                67: 60, 70: 61, 72: 62, 82: 72, 84: 73, 90: 79}  # fmt: skip
    assert {x: places[x] for x in expected} == expected and len(places) == 80
    missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(range(1, 91)) - set(places) == missing
    assert all(place == x - 1 - sum(y < x for y in missing) for x, place in places.items())


def test_results(tmp_path):
    """Of a list the classes that occur are known; boxes XYWH become XYXY."""
    entries = [entry(), entry(3, 2, score=0.04), entry(3, 1, (0, 0, 0, 5)), entry("3", 1)]
    found = read_detections(written(tmp_path, entries), NAMES, 0.1)
    assert found.classes == ("red", "green") and list(found.images) == ["0", "3"]
    assert_close(found.images["0"], np.array([[8, 4, 28, 14, 0.5, 0]], np.float32))
    found = read_detections(written(tmp_path, [entry(0.0), entry(3, 2.0)]), NAMES)
    assert list(found.images) == ["0", "3"]
    assert found.classes == ("red", "green") and found.images["3"][0, 5] == 1


def test_classes_by_name(tmp_path):
    data = {"categories": [{"id": 7, "name": "car"}, {"id": 9, "name": "bus"}],
            "annotations": [entry(0, 9), entry(1, 7)]}  # fmt: skip
    found = read_detections(written(tmp_path, data), NAMES)
    assert found.classes == ("car", "bus")
    assert [x[0, 5] for x in found.images.values()] == [1, 0]
    named = [{**entry(), "category_name": "boat"}, entry(category_name="ship")]
    assert read_detections(written(tmp_path, named), {}).classes == ("boat", "ship")


def test_ids_of_coco(tmp_path):
    """Where the data's own names are COCO's, or are not known."""
    path = written(tmp_path, [entry(0, 90), entry(0, 3)])
    for names in ({}, {1: "person"}, {1: "person", 3: "car"}):
        assert read_detections(path, names).classes == ("toothbrush", "car")
    with pytest.raises(ConfigError, match=r"category ids that the data does not have \(90, 3\)"):
        read_detections(path, NAMES)


NO_FILE = "is no file of detections: give COCO's results"


@pytest.mark.parametrize(("data", "message"), [
    ("text", NO_FILE), ([1], NO_FILE), ({"annotations": [entry()]}, "has no categories"),
    ({"categories": [{"id": 1, "name": "a"}], "annotations": {}}, NO_FILE),
    ({"categories": [{"id": 1}], "annotations": []}, "has no categories"),
    ([entry(), entry(score=87)], "entry 1 has no image_id, known class, box of four numbers or"),
    ([entry(box=(1, 2, 3))], "entry 0 has no"), ([entry(score=None)], "entry 0 has no"),
    ([entry(image=None)], "entry 0 has no"), ([entry(image=[1])], "entry 0 has no"),
    ([entry(category=[1])], r"category ids that the data does not have"),
    ([entry(category_name=5)], "entry 0 has no"),
    ({"categories": [{"id": 1, "name": "a"}], "annotations": [entry(category=[1])]},
     "entry 0 has no"),
])  # fmt: skip
def test_what_is_no_file_of_detections(tmp_path, data, message):
    with pytest.raises(ConfigError, match=f"DISTILL.SetKD.OFFLINE: .*{message}"):
        read_detections(written(tmp_path, data), NAMES)


def test_what_is_no_json(tmp_path):
    (tmp_path / "x.json").write_text("{")
    for name, said in (("x.json", "is not valid json"), ("none.json", "cannot be read")):
        with pytest.raises(ConfigError, match=f"DISTILL.SetKD.OFFLINE: .*{name} {said}"):
            read_detections(tmp_path / name, NAMES)


def test_numbers_that_are_none(tmp_path):
    """json has NaN and Infinity."""
    boxes = (float("nan"), 4, 20, 10), (0, 0, float("inf"), 5)
    path = written(tmp_path, [entry(box=box) for box in boxes] + [entry()])
    assert len(read_detections(path, NAMES).images["0"]) == 1


def augmentations():
    return [
        [T.RandomFlip(1.0)], [T.RandomFlip(1.0, horizontal=False, vertical=True)],
        [T.ResizeShortestEdge([96, 130], 200, "choice")], [T.RandomCrop("relative", (0.6, 0.7))],
        [T.RandomCrop("absolute", (40, 50)), T.ResizeShortestEdge(90, 200), T.RandomFlip(1.0)],
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(5))
def test_boxes_go_where_labels_go(case):
    """Those that Detectron2's own transform of annotations makes, but for those cut to less than
    half."""
    rng = np.random.default_rng(case)
    corner = rng.uniform(0, 50, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 30, (40, 2))], 1)
    rows = np.concatenate([boxes, rng.uniform(size=(40, 2))], 1).astype(np.float32)
    image = np.zeros((80, 90, 3), np.uint8)
    np.random.seed(case)
    inputs = T.AugInput(image)
    transforms = T.AugmentationList(augmentations()[case])(inputs)
    size = inputs.image.shape[:2]
    found, expected = carried(rows, transforms, size), []
    for row in rows:
        label = {"bbox": row[:4].tolist(), "bbox_mode": BoxMode.XYXY_ABS}
        box = transform_instance_annotations(label, transforms, size)["bbox"]
        whole = transforms.apply_box(row[None, :4])[0]
        area = lambda x: np.prod(np.maximum(x[2:] - x[:2], 0))  # noqa: E731
        if area(box) >= area(whole) / 2:
            expected.append([*box, *row[4:]])
    assert found.dtype == np.float32
    assert_close(found, np.array(expected, np.float32), atol=1e-3, rtol=1e-5)
    assert (case < 3) == (len(found) == 40) and len(found) > 0
    assert carried(rows[:0], transforms, size).shape == (0, 6)


def test_half_of_a_box():
    """Of a width of 10 px, 5 and 4 stay in a crop of 50 px."""
    rows = np.array([[45, 0, 55, 10, 0.9, 0], [46, 0, 56, 10, 0.8, 0]], np.float32)
    crop = T.TransformList([T.CropTransform(0, 0, 50, 50)])
    assert carried(rows, crop, (50, 50)).tolist() == [[45, 0, 50, 10, pytest.approx(0.9), 0]]


def config(tmp_path, squares, data, **keys):
    cfg = get_d2kd_cfg()
    cfg.merge_from_file(str(write_config(tmp_path, squares)))
    cfg.MODEL.META_ARCHITECTURE, cfg.DISTILL.STUDENT = "Distiller", "RetinaNet"
    cfg.DISTILL.HEADS = ("SetKD",)
    cfg.DISTILL.SetKD.OFFLINE = str(written(tmp_path, data))
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    register_custom_datasets(cfg)
    return cfg


def test_images_bring_their_boxes(tmp_path, squares, caplog):
    data = [entry(i, 1 + i % 2, (8, 4, 20, 10), 0.5) for i in range(11)] + [entry("no such")]
    data.append(entry("11.png", 2, (60, 60, 10, 10), 0.7))  # by its name; it reaches outside
    cfg = config(tmp_path, squares, data, INPUT__RANDOM_FLIP="horizontal")
    with caplog.at_level(logging.INFO, "d2kd"):
        batch = next(iter(build_train_loader(cfg)))
    assert "boxes of 12 of the 12 training images" in caplog.text
    assert "1 of its image ids are not among them" in caplog.text
    for x in batch:
        assert x["set"].dtype == torch.float32 and x["set"].shape == (1, 6)
        left, _, right, _, score, place = x["set"][0].tolist()
        if x["image_id"] == 11:
            assert (right - left, place) == (4, 1) and score == pytest.approx(0.7)
        else:
            assert right - left == 20 and place == x["image_id"] % 2


def test_images_without_an_entry(tmp_path, squares, caplog):
    cfg = config(tmp_path, squares, [entry(0), entry(5)])
    records = [{"image_id": i, "file_name": f"{i}.png"} for i in range(12)]
    found = with_detections(cfg, records)
    assert [len(x["set"]) for x in found] == [1, 0, 0, 0, 0, 1] + [0] * 6
    assert "boxes of 2 of the 12 training images; in the others nothing was found" in caplog.text


@pytest.mark.parametrize(("key", "records"), [
    (1, [{"image_id": 1, "file_name": "a/x.png"}, {"image_id": 1, "file_name": "b/y.png"}]),
    ("x.png", [{"file_name": "a/x.png"}, {"image_id": 2, "file_name": "b/x.png"}]),
])  # fmt: skip
def test_detections_of_two_images(tmp_path, squares, key, records):
    """The same image twice is one; a record of a function may have no id."""
    cfg = config(tmp_path, squares, [entry(key)])
    same = [records[0], {**records[0], "file_name": "./a/x.png"}]
    assert [len(x["set"]) for x in with_detections(cfg, same)] == [1, 1]
    message = f"OFFLINE: .* of '{key}', which is a/x.png and also b/..png: give each training"
    with pytest.raises(ConfigError, match=message):
        with_detections(cfg, records)


def test_no_image_fits(tmp_path, squares):
    cfg = config(tmp_path, squares, [entry("a"), entry("b")])
    with pytest.raises(ConfigError, match=r"none of the 2 image ids .*\(a, b, ...\).*\(0, 1, 2"):
        build_train_loader(cfg)


def test_a_plain_training_reads_no_file(tmp_path, squares):
    cfg = config(tmp_path, squares, [entry()])
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    assert "set" not in next(iter(build_train_loader(cfg)))[0]
