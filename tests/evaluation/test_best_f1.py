"""The threshold with the best F1, worked out by hand, and where it is found again."""

import json

import pytest

from d2kd.evaluation.best_f1 import best_f1, point_of, score_threshold, stored_best_f1
from d2kd.evaluation.records import coco_truth
from d2kd.file_io import sha256_of
from tests.evaluation.test_records import record

POINT = {"threshold": 0.25, "F1": 0.5, "precision": 0.75, "recall": 0.375}
FAR = [200.0, 200.0, 9.0, 9.0]
TRUTH = coco_truth([record(0, (0, 0, 40, 40, 0), (60, 60, 90, 90, 1)),
                    record(1, (0, 0, 40, 40, 0), (60, 60, 90, 90, 1))], "ab")  # fmt: skip


def found(image, category, score, box=None):
    own = [0.0, 0.0, 40.0, 40.0] if category == 0 else [60.0, 60.0, 30.0, 30.0]
    return {"image_id": image, "category_id": category, "bbox": box or own, "score": score}


def test_by_hand():
    """Of four objects three are found, in order of score: hit, hit, wrong, hit, three wrong."""
    detections = [found(0, 0, 0.9), found(0, 1, 0.8), found(1, 0, 0.6, FAR), found(1, 0, 0.5),
                  *(found(1, 1, 0.2, FAR) for _ in range(3))]  # fmt: skip
    point = best_f1(TRUTH, detections)
    assert point == {"threshold": 0.351, "F1": 0.75, "precision": 0.75, "recall": 0.75}
    detections[3]["score"] = 0.1  # 2 of 2 at 0.7 give 4/6, 3 of 7 give 6/11
    point = best_f1(TRUTH, detections)
    assert point == {"threshold": 0.701, "F1": 2 / 3, "precision": 1.0, "recall": 0.5}


@pytest.mark.parametrize("detections", [[], [found(0, 0, 0.9, FAR)], [found(0, 0, 0.0004)]])
def test_nothing_found_has_no_threshold(detections):
    assert best_f1(TRUTH, detections) == {}


def test_a_box_of_another_class_is_no_hit():
    swapped = [found(0, 1, 0.9, [0.0, 0.0, 40.0, 40.0]), found(0, 1, 0.4)]
    assert best_f1(TRUTH, swapped)["precision"] == 0.5


@pytest.mark.parametrize(("results", "expected"), [
    ({"bbox": {"AP": 3.0}, "best_f1": POINT}, POINT),
    ({"a": {"bbox": {}, "best_f1": POINT}, "b": {"best_f1": {**POINT, "F1": 0.9}}}, POINT),
    ({"bbox": {"AP": 3.0}}, {}), (None, {}), ([], {}), ({"best_f1": []}, {}),
    ({"best_f1": {**POINT, "F1": "x"}}, {}), ({"best_f1": {"threshold": 0.5}}, {}),
    ({"best_f1": {**POINT, "threshold": float("nan")}}, {}),
])  # fmt: skip
def test_what_is_stored_is_checked(results, expected):
    assert point_of(results) == expected


def test_each_checkpoint_has_its_own(tmp_path):
    for name, text in (("model_best.pth", "best"), ("model_final.pth", "last"), ("x.pth", "x")):
        (tmp_path / name).write_text(text)
    (tmp_path / "model_best.json").write_text(json.dumps({"best_f1": POINT}))
    last = {**POINT, "threshold": 0.4}
    (tmp_path / "results.json").write_text(json.dumps({"results": {"best_f1": last}}))
    best, final, other = (str(tmp_path / x) for x in ("model_best.pth", "model_final.pth", "x.pth"))
    assert stored_best_f1(best) == POINT and stored_best_f1(final) == last
    assert score_threshold(best) == (0.25, "score threshold 0.25: the best F1 (0.50) in validation")
    assert score_threshold(other)[0] == 0.5 and "none is stored" in score_threshold(other)[1]
    (tmp_path / "eval").mkdir()
    evaluated = {"results": {"best_f1": POINT}, "run": {"weights": {"x": sha256_of(other)}}}
    (tmp_path / "eval" / "results.json").write_text(json.dumps(evaluated))
    assert stored_best_f1(other) == POINT and stored_best_f1(final) == last
    (tmp_path / "results.json").unlink()
    assert stored_best_f1(final) == {} == stored_best_f1("https://x.org/model_final.pth")
