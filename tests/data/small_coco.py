"""A small data set in COCO's json format, changed and loaded."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2kd.data import load_dataset
from d2kd.data.builtin import register_coco_format
from d2kd.data.folder import Split
from d2kd.data.problems import find_problems
from d2kd.errors import ConfigError

NAME = "records_test"
POLYGON = [2, 3, 12, 3, 12, 11, 2, 11]


def small_coco(images=3):
    """A COCO json of 40 x 24 px images with two objects each, all with masks."""
    return {
        "images": [
            {"id": i + 7, "file_name": f"{i}.png", "width": 40, "height": 24} for i in range(images)
        ],
        "categories": [{"id": 3, "name": "cell"}, {"id": 8, "name": "debris"}],
        "annotations": [
            {"id": 2 * i + k + 1, "image_id": i + 7, "category_id": (3, 8)[k], "iscrowd": 0,
             "area": 70.5, "bbox": [2, 3, 10, 8], "segmentation": [POLYGON]}
            for i in range(images) for k in range(2)
        ],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        Image.new("RGB", (40, 24)).save(tmp_path / f"{i}.png")
    yield tmp_path
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def load(folder, coco, masks="", key="DATASETS.TRAIN"):
    path = folder / "train.json"
    path.write_bytes(coco if isinstance(coco, bytes) else json.dumps(coco).encode())
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    register_coco_format(NAME, str(path), str(folder), "coco")
    return load_dataset(NAME, key, masks=masks)


def problems(folder):
    return find_problems(Split(folder / "train.json", folder, []))


def objects(records):
    return [x for record in records for x in record["annotations"]]


def refused(folder, coco, masks=""):
    with pytest.raises(ConfigError) as error:
        load(folder, coco, masks)
    assert "\n" not in str(error.value) and "DATASETS.TRAIN" in str(error.value)
    return str(error.value)
