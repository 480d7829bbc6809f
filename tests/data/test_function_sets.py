"""Data sets registered with a function of the user's, or without an image folder."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from d2kd.data import dataset_num_classes, load_dataset
from d2kd.data.catalog import is_json_set
from d2kd.errors import ConfigError
from tests.data.small_coco import folder, objects, small_coco

__all__ = ["folder"]
TEST = "DATASETS.TEST"


@pytest.fixture
def name():
    yield "own_set"
    DatasetCatalog.remove("own_set")
    MetadataCatalog.remove("own_set")


def records(folder, ids):
    box = {"bbox": [2, 3, 10, 8], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    image = {"file_name": str(folder / "0.png"), "width": 40, "height": 24, "annotations": [box]}
    return [image if i is None else {**image, "image_id": i} for i in ids]


@pytest.mark.parametrize(("ids", "message"), [
    ((1, 2, 1), "1 image ids are used more than once: 1 (give each image an id of its own)"),
    ((1, None), "1 images have no 'image_id': "),
])  # fmt: skip
def test_images_of_an_evaluation(folder, name, ids, message):
    """Training does not read them, and takes an image twice that is there twice."""
    DatasetCatalog.register(name, lambda: records(folder, ids))
    MetadataCatalog.get(name).thing_classes = ["cell"]
    with pytest.raises(ConfigError) as error:
        load_dataset(name, TEST)
    assert f"{TEST}: 'own_set': {message}" in str(error.value)
    assert len(load_dataset(name)) == len(ids)
    for needed in ("width", "height"):
        DatasetCatalog[name] = lambda needed=needed: [
            {k: v for k, v in x.items() if k != needed} for x in records(folder, [1])
        ]
        with pytest.raises(
            ConfigError, match=f"1 images have no '{needed}': .*evaluation needs it"
        ):
            load_dataset(name, TEST)
        assert load_dataset(name)


@pytest.mark.parametrize(("change", "said"), [
    (lambda r, a: None, "it returns NoneType"),
    (lambda r, a: [r, "x"], "a record has no file_name: x"),
    (lambda r, a: r.pop("file_name") and [r], "a record has no file_name: {'width': 40"),
    (lambda r, a: [r | {"annotations": None}], "0.png has annotations None"),
    (lambda r, a: [r | {"annotations": [None]}], "0.png has an annotation None"),
    (lambda r, a: [r | {"height": 0}], "0.png has width and height (40, 0)"),
    *((lambda r, a, x=x: a.pop(x) and [r], f"0.png has an annotation without {x!r}")
      for x in ("bbox", "bbox_mode")),
    (lambda r, a: [a.pop("category_id"), [r]][1], "0.png has an annotation without 'category_id'"),
    (lambda r, a: a.update(bbox_mode="xywh") or [r], "0.png has bbox_mode 'xywh'"),
    (lambda r, a: a.update(bbox_mode=BoxMode.XYWH_REL) or [r], "0.png has bbox_mode <BoxMode.XYWH"),
    (lambda r, a: a.update(bbox=[1, 2, "3", 4]) or [r], "0.png has bbox [1, 2, '3', 4]"),
])  # fmt: skip
def test_what_a_function_returns(folder, name, change, said):
    """One line for each; classes that the metadata does not know are said later."""
    (record,) = records(folder, [1])
    (annotation,) = record["annotations"]
    DatasetCatalog.register(name, lambda: [{**record}])
    assert load_dataset(name) == [record]
    DatasetCatalog[name] = lambda: change(record, annotation)
    with pytest.raises(ConfigError) as error:
        load_dataset(name, TEST)
    assert f"{TEST}: 'own_set': " in str(error.value) and said in str(error.value)
    assert ". The function that" in str(error.value) and "\n" not in str(error.value)


def test_classes_of_a_set_without_annotations(folder, name):
    """They are asked of any set, by a key that need not be DATASETS.TRAIN."""
    coco = small_coco() | {"annotations": []}
    (folder / "a.json").write_text(json.dumps(coco))
    register_coco_instances(name, {}, str(folder / "a.json"), str(folder))
    assert dataset_num_classes(name) == 2
    (folder / "a.json").write_text("{")
    MetadataCatalog.get(name).__dict__.pop("thing_classes")
    with pytest.raises(ConfigError, match=f"{TEST}: 'own_set': .*not valid json"):
        dataset_num_classes(name, TEST)


def test_absolute_names_and_no_folder(folder, name):
    coco = small_coco()
    for x in coco["images"]:
        x["file_name"] = str(folder / x["file_name"])
    coco["annotations"][0]["segmentation"] = []  # which Detectron2's reader drops with its box
    (folder / "a.json").write_text(json.dumps(coco))
    register_coco_instances(name, {}, str(folder / "a.json"), "")
    assert is_json_set(name)
    assert len(objects(load_dataset(name, TEST))) == 6


def test_only_a_test_set_gives_no_ap(folder, name, caplog):
    DatasetCatalog.register(name, lambda: [{**x, "annotations": []} for x in records(folder, [1])])
    MetadataCatalog.get(name).thing_classes = ["cell"]
    load_dataset(name, "DATASETS.UNLABELLED")
    assert not caplog.records
    load_dataset(name, TEST)
    assert "has no annotation, so it gives no AP" in caplog.text
