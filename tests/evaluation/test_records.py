"""Box AP on records: COCO's numbers, parts of a data set, nothing found."""

import copy
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from torch.testing import assert_close

from d2kd.evaluation import FastCOCOEvaluator
from d2kd.evaluation.records import RecordsEvaluator
from tests.evaluation.test_coco import NAME, detections, evaluate, records  # noqa: F401


def found(boxes, classes, scores):
    result = Instances((100, 100))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    result.scores = torch.tensor(scores, dtype=torch.float32)
    return {"instances": result}


def record(image_id, *objects):
    """Objects are (x0, y0, x1, y1, class)."""
    annotations = [
        {"bbox": list(x[:4]), "bbox_mode": BoxMode.XYXY_ABS, "category_id": x[4]} for x in objects
    ]
    return {"image_id": image_id, "height": 100, "width": 100, "annotations": annotations}


def test_equals_coco_on_a_whole_data_set(records):  # noqa: F811
    rng = np.random.default_rng(0)
    pairs = [(x, detections(x, rng, False)) for x in records]
    stock = evaluate(FastCOCOEvaluator(NAME), copy.deepcopy(pairs))["bbox"]
    evaluator = RecordsEvaluator(records, MetadataCatalog.get(NAME).thing_classes)
    for x, instances in pairs:
        evaluator.process([x], [{"instances": instances}])
    ours = evaluator.evaluate()
    assert 5 < ours["bbox"]["AP"] < 95
    for key, value in ours["bbox"].items():
        assert_close(value, stock[key], rtol=1e-9, atol=1e-9, equal_nan=True)


def test_one_class_found_and_one_not():
    """Class 0 is found (100), class 1 is not (0), class 2 has no object and does not count."""
    evaluator = RecordsEvaluator([record("a", (10, 10, 50, 50, 0), (60, 60, 90, 90, 1))], "xyz")
    evaluator.process([{"image_id": "a"}], [found([[10, 10, 50, 50]], [0], [0.9])])
    box = evaluator.evaluate()["bbox"]
    assert_close([box["AP"], box["AP50"], box["AP-x"], box["AP-y"]], [50.0, 50.0, 100.0, 0.0])
    assert math.isnan(box["AP-z"])


def test_only_the_given_images_count():
    whole = [record(i, (10, 10, 50, 50, 0)) for i in range(4)]
    for part, expected in ((whole, 50.495), (whole[:2], 100.0)):
        evaluator = RecordsEvaluator(part, ["x"])
        for x in part:
            boxes = [[10, 10, 50, 50]] if x["image_id"] < 2 else []
            evaluator.process([x], [found(boxes, [0] * len(boxes), [0.9] * len(boxes))])
        assert_close(evaluator.evaluate()["bbox"]["AP"], expected, atol=1e-3, rtol=0)


def test_a_detector_that_finds_nothing_has_ap_0():
    evaluator = RecordsEvaluator([record(3, (10, 10, 50, 50, 0))], ["x"])
    evaluator.process([{"image_id": 3}], [found([], [], [])])
    assert evaluator.evaluate()["bbox"]["AP"] == 0


@pytest.mark.parametrize("given", [[], [record(1), record(1)]])
def test_records_that_cannot_be_evaluated(given):
    with pytest.raises(ValueError, match="at least one record, and no image id twice"):
        RecordsEvaluator(given, ["x"])
