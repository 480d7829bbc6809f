"""Evaluators take the objects of the records: ids of any kind give the same numbers."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.data import load_dataset
from d2kd.errors import ConfigError
from d2kd.evaluation import FastCOCOEvaluator
from d2kd.evaluation.build import build_evaluator
from tests.data.small_coco import NAME, folder, load, small_coco

__all__ = ["folder"]


def perfect(record):
    """The objects of a record as detections."""
    objects = record["annotations"]
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in objects]
    return Instances(
        (record["height"], record["width"]),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)),
        scores=torch.linspace(1, 0.5, max(len(objects), 1))[: len(objects)],
        pred_classes=torch.tensor([x["category_id"] for x in objects], dtype=torch.int64),
    )


def evaluate(evaluator, records, found=perfect):
    evaluator.reset()
    for record in records:
        evaluator.process([record], [{"instances": found(record)}])
    return evaluator.evaluate()


def spread(coco):
    """The second object of each image elsewhere, so that it is no copy of the first."""
    for a in coco["annotations"][1::2]:
        a["bbox"] = [20, 10, 12, 9]
    return coco


KINDS = {
    "from 0": lambda c: [a.update(id=a["id"] - 1) for a in c["annotations"]],
    "missing": lambda c: [a.pop("id") for a in c["annotations"]],
    "texts": lambda c: (
        [x.update(id=f"im{x['id']}") for x in c["images"]]
        + [a.update(image_id=f"im{a['image_id']}", id="a") for a in c["annotations"]]
    ),
    "texts of classes": lambda c: (
        [x.update(id=f"c{x['id']}") for x in c["categories"]]
        + [a.update(category_id=f"c{a['category_id']}") for a in c["annotations"]]
    ),
    "halves": lambda c: (
        [x.update(id=x["id"] + 0.5) for x in c["images"]]
        + [a.update(image_id=a["image_id"] + 0.5) for a in c["annotations"]]
    ),
    "without area": lambda c: [a.pop("area") for a in c["annotations"]],
    "with a flat box": lambda c: c["annotations"].append(
        {**c["annotations"][0], "id": 99, "bbox": [3, 3, 0, 5]}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_truth_as_detections(folder, tmp_path, kind):
    coco = spread(small_coco())
    KINDS[kind](coco)
    records = load(folder, coco, key="DATASETS.TEST")
    cfg = get_d2kd_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    assert evaluate(build_evaluator(cfg, NAME), records)["bbox"]["AP"] == pytest.approx(100)
    path = tmp_path / "out" / "inference" / NAME / "coco_instances_results.json"
    written = json.loads(path.read_text())
    assert {x["image_id"] for x in written} == {x["id"] for x in coco["images"]}
    assert {x["category_id"] for x in written} == {x["id"] for x in coco["categories"]}


def test_ids_of_classes_in_any_order(folder, tmp_path, monkeypatch):
    records = load(folder, spread(small_coco()), key="DATASETS.TEST")
    metadata = MetadataCatalog.get(NAME)
    numbers = metadata.thing_dataset_id_to_contiguous_id
    turned = dict(sorted(numbers.items(), reverse=True))
    monkeypatch.setitem(metadata.__dict__, "thing_dataset_id_to_contiguous_id", turned)
    evaluate(FastCOCOEvaluator(NAME, output_dir=str(tmp_path)), records)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [numbers[x["category_id"]] for x in written] == [
        x["category_id"] for record in records for x in record["annotations"]
    ]


def test_equals_detectron2_on_sparse_ids(folder):
    """Areas as stated, unsorted images, classes with gaps, a crowd, and detections that miss."""
    coco = spread(small_coco())
    coco["images"].reverse()
    coco["annotations"][0].update(area=2000.0)
    coco["annotations"][3].update(iscrowd=1)
    records = load(folder, coco, key="DATASETS.TEST")
    rng = np.random.default_rng(0)

    def shaken(record):
        found = perfect(record)
        found.pred_boxes.tensor += torch.from_numpy(rng.normal(0, 1, (len(found), 4))).float()
        return found

    found = {record["image_id"]: shaken(record) for record in records}
    both = [
        evaluate(evaluator, records, lambda record: found[record["image_id"]])["bbox"]
        for evaluator in (FastCOCOEvaluator(NAME), COCOEvaluator(NAME, use_fast_impl=False))
    ]
    np.testing.assert_allclose(list(both[0].values()), list(both[1].values()), rtol=1e-12)
    assert 5 < both[0]["AP"] < 95 and not np.isnan(both[0]["APm"])


def with_keypoints(coco, count=17):
    for i, a in enumerate(coco["annotations"]):
        a["keypoints"] = [v for k in range(count) for v in (3 + k % 9, 4 + i, 2 if i else 0)]
        a["num_keypoints"] = count if i else 0
    return coco


def test_keypoints_equal_detectron2(folder):
    records = load(folder, with_keypoints(spread(small_coco())), key="DATASETS.TEST")

    def found(record):
        points = [x["keypoints"] for x in record["annotations"]]
        result = perfect(record)
        result.pred_keypoints = torch.tensor(points).reshape(len(points), -1, 3) + 0.4
        return result

    both = [
        evaluate(evaluator, records, found)
        for evaluator in (FastCOCOEvaluator(NAME), COCOEvaluator(NAME, use_fast_impl=False))
    ]
    assert both[0].pop("best_f1")["threshold"] > 0
    assert both[0].keys() == both[1].keys() == {"bbox", "keypoints"}
    for task, values in both[1].items():
        np.testing.assert_allclose(list(both[0][task].values()), list(values.values()), rtol=1e-12)
    assert both[0]["keypoints"]["AP"] > 0


def test_other_keypoints_need_their_sigmas(folder):
    records = load(folder, with_keypoints(small_coco(), 2), key="DATASETS.TEST")
    cfg = get_d2kd_cfg()

    def found(record):
        result = perfect(record)
        result.pred_keypoints = torch.tensor([x["keypoints"] for x in record["annotations"]])
        result.pred_keypoints = result.pred_keypoints.reshape(len(result), -1, 3)
        return result

    with pytest.raises(ConfigError, match="set TEST.KEYPOINT_OKS_SIGMAS, one for each"):
        evaluate(build_evaluator(cfg, NAME), records, found)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.1]
    assert evaluate(build_evaluator(cfg, NAME), records, found)["keypoints"]["AP"] > 0


def test_masks_of_boxes_alone(folder):
    coco = small_coco()
    coco["annotations"][1]["segmentation"] = []
    records = load(folder, coco, key="DATASETS.TEST")

    def found(record):
        result = perfect(record)
        result.pred_masks = torch.ones(len(result), 24, 40, dtype=torch.bool)
        return result

    with pytest.raises(ConfigError, match="1 objects without a mask, so masks cannot be evaluated"):
        evaluate(FastCOCOEvaluator(NAME), records, found)


def test_set_of_a_function(folder, tmp_path):
    """Its objects are taken as they are now, not from a json file that an older run has left."""
    records = load(folder, spread(small_coco()))
    DatasetCatalog.register("own_function", lambda: records)
    MetadataCatalog.get("own_function").thing_classes = ["cell", "debris"]
    try:
        for _ in range(2):
            evaluator = FastCOCOEvaluator("own_function", output_dir=str(tmp_path / "out"))
            loaded = load_dataset("own_function", "DATASETS.TEST")
            assert evaluate(evaluator, loaded)["bbox"]["AP"] == pytest.approx(100)
            for x in records[0]["annotations"]:
                x["bbox"] = [5, 5, 8, 8]
            records[0]["annotations"].pop()
    finally:
        DatasetCatalog.remove("own_function")
        MetadataCatalog.remove("own_function")


def test_areas_of_a_function_that_reads_json(folder):
    """As registered in Detectron2's tutorial: its reader leaves the areas out."""
    coco = spread(small_coco())
    for a in coco["annotations"]:
        a.update(area=7.0, segmentation=[])
    coco["annotations"][0].update(area=2000.0)
    records = load(folder, coco, key="DATASETS.TEST")
    path = str(folder / "train.json")
    DatasetCatalog.register("own_lambda", lambda: load_coco_json(path, str(folder), "own_lambda"))
    MetadataCatalog.get("own_lambda").set(
        json_file=path, image_root=str(folder), evaluator_type="coco"
    )
    try:
        both = [evaluate(FastCOCOEvaluator(x), records)["bbox"] for x in (NAME, "own_lambda")]
    finally:
        DatasetCatalog.remove("own_lambda")
        MetadataCatalog.remove("own_lambda")
    assert both[0] == pytest.approx(both[1], nan_ok=True)
    assert both[0]["APm"] == pytest.approx(100) and np.isnan(both[0]["APl"])
