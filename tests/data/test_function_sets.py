"""Data sets registered with a function of the user's, or without an image folder."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from d2kd.data import load_dataset
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
def test_image_ids_of_an_evaluation(folder, name, ids, message):
    """Training does not read them, and takes an image twice that is there twice."""
    DatasetCatalog.register(name, lambda: records(folder, ids))
    MetadataCatalog.get(name).thing_classes = ["cell"]
    with pytest.raises(ConfigError) as error:
        load_dataset(name, TEST)
    assert f"{TEST}: 'own_set': {message}" in str(error.value)
    assert len(load_dataset(name)) == len(ids)


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
