"""AP with weighted images is COCO's: with weights of one, and with images repeated."""

import copy
import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from torch.testing import assert_close

from d2kd.evaluation import FastCOCOEvaluator, RecordsEvaluator
from d2kd.evaluation.bootstrap import bootstrap, match, match_by_size, weighted_ap
from d2kd.evaluation.spread import paired_difference, spread_of
from tests.evaluation.test_coco import NAME, detections, evaluate, records  # noqa: F401
from tests.evaluation.test_records import found, record

OBJECTS = [(10, 10, 50, 50, 0), (60, 60, 90, 90, 1)]


def judged(kinds):
    """An evaluator of images with OBJECTS, of classes a to c; of a higher kind, worse are found."""
    evaluator = RecordsEvaluator([record(i, *OBJECTS) for i in range(len(kinds))], "abc")
    for i, kind in enumerate(kinds):
        boxes = [[10 + 3.0 * kind, 10, 50 + 3.0 * kind, 50], [60, 60, 90, 90], [0, 0, 9, 9]]
        scores = [0.9 - 0.05 * kind, 0.8, 0.2 + 0.2 * kind]
        evaluator.process([{"image_id": i}], [found(boxes, [0, 1, 1], scores)])
    return evaluator


@pytest.fixture
def saved(records, tmp_path):  # noqa: F811
    """AP of COCO's evaluator, and the file that it wrote."""
    rng = np.random.default_rng(0)
    pairs = [(x, detections(x, rng, False)) for x in records]
    box = evaluate(FastCOCOEvaluator(NAME, output_dir=str(tmp_path)), copy.deepcopy(pairs))["bbox"]
    return box, tmp_path / "coco_instances_results.json", len(records)


def test_weights_of_one_give_cocos_numbers(saved):
    box, path, images = saved
    evaluator = FastCOCOEvaluator(NAME)
    ap = weighted_ap(match(evaluator.truth, evaluator.read(path)), np.ones(images, int))
    assert_close(np.nanmean(ap), box["AP"], rtol=1e-9, atol=1e-9)
    assert_close(np.nanmean(ap[5]), box["AP75"], rtol=1e-9, atol=1e-9)
    for name, of_class in zip(MetadataCatalog.get(NAME).thing_classes, ap.T, strict=True):
        assert_close(of_class.mean(), box[f"AP-{name}"], rtol=1e-9, atol=1e-9, equal_nan=True)


def test_sizes_are_cocos(saved):
    box, path, images = saved
    evaluator = FastCOCOEvaluator(NAME)
    sizes = [(0, 32), (32, 96), (96, 1e5)]
    by_size = match_by_size(evaluator.truth, evaluator.read(path), sizes)
    ap = [np.nanmean(weighted_ap(x, np.ones(images, int))) for x in by_size]
    assert_close(ap, [box[k] for k in ("APs", "APm", "APl")], equal_nan=True, atol=1e-9, rtol=0)


def test_a_weight_is_a_number_of_copies():
    """Images of kinds 1, 1, 2, 2, 2 as five images, and as weights 2, 0, 3 of three."""
    kinds, weights = np.array([1, 4, 2]), np.array([2, 0, 3])
    copies, three = judged(np.repeat(kinds, weights)), judged(kinds)
    ap = weighted_ap(match(three.truth, three.detections), weights)
    expected = weighted_ap(match(copies.truth, copies.detections), np.ones(5, int))
    assert 20 < np.nanmean(ap) < 95 and np.isnan(ap[:, 2]).all()
    assert_close(ap, expected, equal_nan=True)
    assert_close(np.nanmean(expected), copies.analyse()["bbox"]["AP"])


def test_nothing_found_is_0():
    evaluator = RecordsEvaluator([record(0, *OBJECTS)], "abc")
    ap = weighted_ap(match(evaluator.truth, []), np.array([1]))
    assert_close(ap, np.tile([0.0, 0.0, np.nan], (10, 1)), equal_nan=True)
    assert np.isnan(weighted_ap(match(evaluator.truth, []), np.array([0]))).all()


def test_the_models_of_a_sample_have_the_same_images():
    one, other = judged([0] * 10 + [3] * 10), judged([0] * 10 + [4] * 10)
    models = [match(x.truth, x.detections) for x in (one, one, other)]
    found = np.nanmean(bootstrap(models, 30), (2, 3))
    assert found.shape == (30, 3) and (found[:, 0] == found[:, 1]).all()
    assert (found[:, 0] >= found[:, 2]).all() and found[:, 0].std() > 0.5
    assert (np.nanmean(bootstrap(models, 30), (2, 3)) == found).all()
    assert (np.nanmean(bootstrap(models, 30, seed=1), (2, 3)) != found).any()


def test_a_file_of_another_data_set(saved):
    _, path, _ = saved
    path.write_text(json.dumps([{"image_id": -1, "category_id": 1, "bbox": [0, 0, 1, 1],
                                 "score": 0.5}]))  # fmt: skip
    with pytest.raises(LookupError):
        FastCOCOEvaluator(NAME).read(path)


def test_spread_by_hand():
    assert spread_of([1.0, 2.0, 3.0, float("nan")])[:3] == (3, 2.0, 1.0)
    assert_close(paired_difference({1: 5.0, 2: 9.0, 3: 0.0}, {1: 4.0, 2: 4.0})[:4],
                 (2, 3.0, 8.0**0.5, 2.0))  # fmt: skip
