"""The six types of errors by hand, what they cost, groups of objects; AP50 is COCO's."""

import math

import numpy as np
import pytest
from torch.testing import assert_close

from d2kd.evaluation.error_costs import error_costs, error_counts
from d2kd.evaluation.error_types import ERROR_TYPES, judge
from d2kd.evaluation.groups import (
    ErrorEvaluator,
    ap_by_objects,
    ap_by_size,
    largest_overlaps,
    recall_by_overlap,
)
from d2kd.evaluation.records import box_precision, mean_precision
from tests.evaluation.test_records import found, record


def scene(objects, detections):
    """One image; objects are (x, y, w, h, class), detections (x, y, w, h, class, score)."""
    return scenes([(objects, detections)])


def scenes(images, classes=3):
    truth = {"images": [], "annotations": [],
             "categories": [{"id": k, "name": str(k)} for k in range(classes)]}  # fmt: skip
    results = []
    for i, (objects, detections) in enumerate(images):
        truth["images"].append({"id": i, "height": 200, "width": 200})
        for x, y, w, h, k, *crowd in objects:
            truth["annotations"].append({
                "id": len(truth["annotations"]) + 1, "image_id": i, "category_id": k,
                "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(bool(crowd)),
            })  # fmt: skip
        for x, y, w, h, k, score in detections:
            box = {"bbox": [x, y, w, h], "score": score}
            results.append({"image_id": i, "category_id": k, **box})
    return truth, results


OBJECT = (10, 10, 40, 40, 0)
CASES = {  # the detection beside what it is: IoU with the object in the comment
    "hit": [(10, 10, 40, 40, 0, 0.9)],  # 1
    "classification": [(10, 10, 40, 40, 1, 0.9)],  # 1, another class
    "localization": [(30, 10, 40, 40, 0, 0.9)],  # 20 / 60 = 1 / 3
    "both": [(30, 10, 40, 40, 1, 0.9)],  # 1 / 3, another class
    "background": [(120, 120, 40, 40, 0, 0.9)],  # 0
}


@pytest.mark.parametrize("kind", CASES)
def test_a_detection_of_each_type(kind):
    judged = judge(*scene([OBJECT], CASES[kind]))
    assert judged.kinds.tolist() == [kind]
    assert judged.found.tolist() == [kind == "hit"]
    missed = kind in ("both", "background")  # the others are about the object
    expected = {**dict.fromkeys(ERROR_TYPES, 0), "missed": int(missed)}
    if kind != "hit":
        expected[kind] = 1
    assert error_counts(judged) == expected


def test_a_duplicate_is_the_lower_score():
    detections = [(12, 10, 40, 40, 0, 0.5), (10, 10, 40, 40, 0, 0.4), (11, 10, 40, 40, 0, 0.8)]
    judged = judge(*scene([OBJECT], detections))
    assert judged.scores.tolist() == [0.8, 0.5, 0.4]
    assert judged.kinds.tolist() == ["hit", "duplicate", "duplicate"]


def test_a_missed_object():
    assert error_counts(judge(*scene([OBJECT], [])))["missed"] == 1


def test_the_nearer_explanation_comes_first():
    """IoU 1/3 with an object of its class and 1 with one of another: localization, as in TIDE."""
    judged = judge(*scene([OBJECT, (30, 10, 40, 40, 1)], [(30, 10, 40, 40, 0, 0.9)]))
    assert judged.kinds.tolist() == ["localization"]


def test_crowds_take_no_part():
    crowd = (100, 100, 50, 50, 0, "crowd")
    judged = judge(*scene([OBJECT, crowd], [(110, 110, 20, 20, 0, 0.9), CASES["hit"][0]]))
    assert judged.kinds.tolist() == ["hit"] and judged.found.tolist() == [True]


def costs(objects, detections):
    return error_costs(judge(*scene(objects, detections)), 3)


def test_costs_by_hand():
    """Two objects of class 0; a false positive above the one hit halves its precision.

    AP50 is 51 / 101 * 1/2 (recalls 0 to 0.5), 51 / 101 without the false positive, and 1/2 if the
    object that was not found is not asked for.
    """
    other = (100, 10, 40, 40, 0)
    false = (10, 120, 40, 40, 0, 0.95)
    found = costs([OBJECT, other], [false, CASES["hit"][0]])
    base = 51 / 101 / 2 * 100
    assert_close(found["AP50"], base)
    assert_close(found["background"], base)
    assert_close(found["missed"], 50 - base)
    assert_close(found["false_positives"], base)
    assert_close(found["false_negatives"], 50 - base)
    assert found["classification"] == found["localization"] == found["duplicate"] == 0


def test_a_class_that_is_never_detected_is_not_asked_for():
    """AP50 is the mean of 100 and 0, and that of the class with detections without the other."""
    found = costs([OBJECT, (100, 10, 40, 40, 1)], CASES["hit"])
    assert_close([found[x] for x in ("AP50", "missed", "false_negatives")], [50.0, 50.0, 50.0])
    assert costs([OBJECT], [])["missed"] == 0  # nothing is left, nothing was found
    wrong = (150, 150, 20, 20, 1, 0.5)
    found = costs([OBJECT, (100, 10, 40, 40, 1)], [*CASES["hit"], wrong])
    assert_close([found[x] for x in ("AP50", "missed", "false_negatives")], [50.0, 0.0, 0.0])


@pytest.mark.parametrize("kind", ["classification", "localization"])
def test_a_repaired_detection_is_a_hit(kind):
    found = costs([OBJECT], CASES[kind])
    assert found["AP50"] == 0
    assert_close(found[kind], 100.0)
    assert found["both"] == found["duplicate"] == found["background"] == found["missed"] == 0


def test_a_repaired_detection_of_a_found_object_is_removed():
    """The wrong class outranks nothing of class 0, but hurts class 1, whose object it precedes."""
    wrong, right = (10, 10, 40, 40, 1, 0.95), (100, 10, 40, 40, 1, 0.5)
    found = costs([OBJECT, (100, 10, 40, 40, 1)], [CASES["hit"][0], wrong, right])
    assert_close(found["AP50"], 75.0)
    assert_close(found["classification"], 25.0)


def test_one_object_repairs_one_detection():
    """The better of two localization errors becomes a hit, the other is removed."""
    found = costs([OBJECT], [(30, 10, 40, 40, 0, 0.9), (10, 30, 40, 40, 0, 0.8)])
    assert_close(found["localization"], 100.0)


def random_scenes(seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(30):
        objects, detections = [], []
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = *rng.uniform(0, 140, 2), *rng.uniform(10, 60, 2)
            k, crowd = int(rng.integers(3)), ("crowd",) if rng.random() < 0.1 else ()
            objects.append((x, y, w, h, k, *crowd))
            for _ in range(rng.integers(0, 4)):
                x2, y2 = np.array([x, y]) + rng.normal(0, rng.choice([1.0, 12.0]), 2)
                k2 = k if rng.random() < 0.7 else int(rng.integers(3))
                detections.append((x2, y2, w, h, k2, float(rng.random())))
        images.append((objects, detections))
    return scenes(images)


@pytest.mark.parametrize("seed", range(4))
def test_ap50_is_that_of_coco_and_no_repair_of_false_positives_hurts(seed):
    truth, detections = random_scenes(seed)
    judged = judge(truth, detections)
    found, counts = error_costs(judged, 3), error_counts(judged)
    assert_close(found["AP50"], mean_precision(box_precision(truth, detections)[0]))
    assert min(counts.values()) > 0
    assert all(found[kind] >= 0 for kind in ERROR_TYPES)
    assert found["false_positives"] >= max(found["both"], found["duplicate"], found["background"])
    assert sum(counts[k] for k in ERROR_TYPES[:5]) + judged.found.sum() == len(judged.kinds)


def test_groups_by_hand():
    """Sides 10, 40 and 100; two images of one and two objects; overlap 1/3 in the second."""
    small, large = (0, 0, 10, 10, 0), (0, 0, 100, 100, 0)
    truth, detections = scenes([
        ([small], [(*small, 0.9)]),
        ([(10, 10, 40, 40, 0), (30, 10, 40, 40, 0)], [(10, 10, 40, 40, 0, 0.8)]),
        ([large], []),
    ])  # fmt: skip
    values, counts = ap_by_size(truth, detections, [32, 96])
    assert counts == {"size up to 32 px": 1, "size 32 to 96 px": 2, "size above 96 px": 1}
    assert_close(list(values.values()), [100.0, 100 * 51 / 101, 0.0])
    values, counts = ap_by_objects(truth, detections, [1])
    assert counts == {"objects up to 1": 2, "objects above 1": 2}
    assert_close(list(values.values()), [100 * 51 / 101] * 2)
    assert_close(largest_overlaps(truth).tolist(), [0.0, 1 / 3, 1 / 3, 0.0])
    _, counts = ap_by_objects(truth, detections, [1, 2, 4])
    assert list(counts) == ["objects up to 1", "objects 2", "objects 3 to 4", "objects above 4"]
    values, counts = recall_by_overlap(truth, judge(truth, detections), [0.0, 0.5])
    assert list(counts.values()) == [2, 2, 0]
    assert list(values.values())[:2] == [50.0, 50.0] and math.isnan(values["overlap above 0.5"])


def test_the_evaluator_reports_all_of_it():
    records = [record(i, (10, 10, 50, 50, 0), *[(60, 60, 90, 90, 1)] * (i > 1)) for i in range(4)]
    evaluator = ErrorEvaluator(records, ["x", "y"], sizes=[35])
    for x in records:
        evaluator.process([x], [found([[10, 10, 50, 50]], [0], [0.9])])
    results = evaluator.evaluate()
    assert_close(results["bbox"]["AP"], 50.0)
    assert_close(results["error_cost"]["AP50"], 50.0)
    assert results["error_count"] == {**dict.fromkeys(ERROR_TYPES, 0), "missed": 2}
    assert results["AP_by_size"] == {"size up to 35 px": 0.0, "size above 35 px": 100.0}
    assert results["AP_by_objects"] == {"objects up to 1": 100.0, "objects above 1": 50.0}
    assert_close(results["recall_by_overlap"]["overlap 0"], 100 * 4 / 6)
    assert results["objects"]["objects above 1"] == 4
