"""Classes matched by name: what counts, what is ignored, several to one."""

import pytest
from torch.testing import assert_close

from d2kd.errors import ConfigError
from d2kd.evaluation.domain_shift import MappedEvaluator, map_classes, mapped_records
from tests.evaluation.test_records import found, record

DETECTOR, DATASET = ["cat", "car", "truck", "boat"], ["vehicle", "horse", "cat"]


def test_equal_names_match():
    mapping = map_classes(DETECTOR, DATASET)
    assert mapping.classes == ["cat"]
    assert mapping.detector_to == [0, -1, -1, -1] and mapping.dataset_to == [-1, -1, 0]
    assert mapping.ignored_detector == ["car", "truck", "boat"]
    assert mapping.ignored_dataset == ["vehicle", "horse"]


def test_several_classes_stand_for_one():
    names = {"car": "vehicle", "truck": "vehicle", "cat": "cat"}
    mapping = map_classes(DETECTOR, DATASET, names)
    assert mapping.classes == ["vehicle", "cat"]  # in the data set's order
    assert mapping.detector_to == [1, 0, 0, -1] and mapping.dataset_to == [0, -1, 1]
    assert (mapping.ignored_detector, mapping.ignored_dataset) == (["boat"], ["horse"])


def evaluator():
    names = {"car": "vehicle", "truck": "vehicle", "cat": "cat"}
    objects = (0, 0, 40, 40, 0), (50, 50, 90, 90, 1), (0, 50, 40, 90, 2)  # a horse in the middle
    return MappedEvaluator([record("a", *objects)], map_classes(DETECTOR, DATASET, names))


def run(boxes, classes, scores):
    test = evaluator()
    test.process([{"image_id": "a"}], [found(boxes, classes, scores)])
    return test.evaluate()["bbox"]


def test_a_truck_is_a_vehicle_and_the_horse_is_not_asked_for():
    box = run([[0, 0, 40, 40], [0, 50, 40, 90]], [2, 0], [0.9, 0.8])
    assert_close([box["AP"], box["AP-vehicle"], box["AP-cat"]], [100.0] * 3)
    assert box["classes"] == 2 and "AP-horse" not in box


def test_detections_of_ignored_classes_cost_nothing_and_mapped_ones_on_ignored_objects_do():
    boxes = [[0, 0, 40, 40], [0, 50, 40, 90], [50, 50, 90, 90]]
    assert_close(run(boxes, [1, 0, 3], [0.5, 0.5, 0.9])["AP"], 100.0)  # a boat on the horse
    assert_close(run(boxes, [1, 0, 1], [0.5, 0.5, 0.9])["AP-vehicle"], 50.0)  # a car on it


def test_records_are_copied():
    mapping = map_classes(DETECTOR, DATASET)
    records = [record(0, (0, 0, 9, 9, 2), (0, 0, 9, 9, 1))]
    assert [x["category_id"] for x in mapped_records(records, mapping)[0]["annotations"]] == [0]
    assert [x["category_id"] for x in records[0]["annotations"]] == [2, 1]


@pytest.mark.parametrize("names, match", [
    ({"bat": "cat"}, "of the detector: unknown 'bat'.*Did you mean"),
    ({"car": "vehicles"}, "of the data set: unknown 'vehicles'.*Did you mean 'vehicle'"),
    ({}, "no class of the detector"),
])  # fmt: skip
def test_mistakes_are_explained(names, match):
    with pytest.raises(ConfigError, match=match):
        map_classes(DETECTOR, DATASET, names)


def test_nothing_in_common():
    with pytest.raises(ConfigError, match=r"no class of the detector \(a\) is one of the data set"):
        map_classes(["a"], ["b"])
