"""FastCOCOEvaluator gives pycocotools' numbers, on real annotations with crowds and masks."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.file_io import PathManager
from pycocotools import mask as mask_utils

from d2kd.evaluation import FastCOCOEvaluator

NAME = "fast_coco_test"


@pytest.fixture
def records(data_root):
    folder = data_root / "coco"
    paths = str(folder / "annotations" / "instances_val2017.json"), str(folder / "val2017")
    register_coco_instances(NAME, {}, *paths)
    yield load_coco_json(*paths, NAME)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def detections(record, rng, with_masks):
    """Objects with shaken boxes, some of a wrong class, some twice, with few distinct scores."""
    size = record["height"], record["width"]
    objects = record["annotations"] * 2
    xywh = np.array([x["bbox"] for x in objects], dtype=np.float32).reshape(-1, 4)
    xywh = xywh * rng.normal(1, 0.15, xywh.shape)
    boxes = np.hstack([xywh[:, :2], xywh[:, :2] + np.abs(xywh[:, 2:])])
    classes = np.array([x["category_id"] for x in objects], dtype=np.int64)
    wrong = rng.random(len(classes)) < 0.2
    found = Instances(size)
    found.pred_boxes = Boxes(torch.from_numpy(boxes).float())
    found.pred_classes = torch.from_numpy(np.where(wrong, (classes + 1) % 80, classes))
    found.scores = torch.from_numpy(rng.integers(0, 20, len(classes)) / 20).float()
    if with_masks:
        shift = int(rng.integers(0, 12))
        masks = [np.roll(mask(x["segmentation"], size), shift, 1) for x in objects]
        found.pred_masks = BitMasks(torch.from_numpy(np.array(masks, bool).reshape(-1, *size)))
        found.pred_masks = found.pred_masks.tensor
    return found


def mask(segmentation, size):
    if isinstance(segmentation, list):
        segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
    return mask_utils.decode(segmentation)


def evaluate(evaluator, pairs, img_ids=None):
    evaluator.reset()
    for record, found in pairs:
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate(img_ids=img_ids)


@pytest.mark.parametrize("with_masks", [False, True])
def test_equals_pycocotools(records, tmp_path, with_masks):
    rng = np.random.default_rng(0)
    pairs = [(record, detections(record, rng, with_masks)) for record in records]
    stock = evaluate(COCOEvaluator(NAME, use_fast_impl=False), copy.deepcopy(pairs))
    fast = evaluate(FastCOCOEvaluator(NAME, output_dir=str(tmp_path)), pairs)
    assert set(fast) == {"best_f1", "bbox"} | ({"segm"} if with_masks else set())
    assert 5 < fast["bbox"]["AP"] < 95
    for task, metrics in stock.items():
        assert list(fast[task]) == list(metrics)
        np.testing.assert_allclose(list(fast[task].values()), list(metrics.values()), rtol=1e-12)
    assert PathManager.isfile(str(tmp_path / "coco_instances_results.json"))


def test_some_images(records):
    rng = np.random.default_rng(1)
    pairs = [(record, detections(record, rng, False)) for record in records[:30]]
    ids = [record["image_id"] for record in records[:30]]
    stock = evaluate(COCOEvaluator(NAME, use_fast_impl=False), copy.deepcopy(pairs), ids)
    fast = evaluate(FastCOCOEvaluator(NAME), pairs, ids)
    np.testing.assert_allclose(list(fast["bbox"].values()), list(stock["bbox"].values()))


def test_no_detections(records):
    nothing = Instances((10, 10), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0),
                        pred_classes=torch.zeros(0, dtype=torch.int64))  # fmt: skip
    found = evaluate(FastCOCOEvaluator(NAME), [(record, nothing) for record in records])
    assert np.isnan(found["bbox"]["AP"])


def test_class_beyond_the_data_set(records):
    found = detections(records[0], np.random.default_rng(0), False)
    found.pred_classes[0] = 80
    with pytest.raises(ValueError, match="predicts class 80, but the data set has 80"):
        evaluate(FastCOCOEvaluator(NAME), [(records[0], found)])
