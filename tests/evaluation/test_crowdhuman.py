"""CrowdHuman's numbers: a toy case by hand, an independent reference, invariances, two ranks."""

import json
import math
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from numpy.testing import assert_allclose

from d2kd import DistillationTrainer
from d2kd.config import get_d2kd_cfg
from d2kd.data import register_custom_datasets
from d2kd.evaluation import CrowdHumanEvaluator
from d2kd.evaluation.crowd_metrics import (
    FPPI_POINTS,
    JI_THRESHOLDS,
    average_precision,
    clip,
    image_record,
    jaccard_index,
    overlap,
)


def xyxy(*boxes):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def toy():
    """Two images of 100 x 100 px; boxes are x, y, width, height."""
    a = image_record(
        xyxy((0, 0, 20, 40), (35, 0, 20, 40), (65, 5, 10, 20), (0, 60, 20, 20), (2, 0, 20, 40)),
        np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
        xyxy((0, 0, 20, 40), (30, 0, 20, 40)), xyxy((60, 0, 40, 40)), (100, 100),
    )  # fmt: skip
    b = image_record(
        xyxy((10, 10, 20, 20)), np.array([0.55]),
        xyxy((10, 10, 20, 20), (60, 60, 20, 20)), xyxy(), (100, 100),
    )  # fmt: skip
    return a, b


def test_toy_case():
    """Scores .9 T .8 T .6 F .55 T .5 F, the .7 is dropped; MR = exp((7 ln .5 + 2 ln .25) / 9)."""
    a, b = toy()
    assert_allclose(a.scores, [0.9, 0.8, 0.6, 0.5])
    assert a.hits.tolist() == [True, True, False, False]
    assert b.scores.tolist() == [0.55] and b.hits.tolist() == [True]
    ap, mr = average_precision([a, b])
    assert_allclose(ap, 0.427083, atol=1e-6)
    assert_allclose(mr, 2 ** (-11 / 9), atol=1e-9)
    assert_allclose(mr, 0.428622, atol=1e-6)
    expected = [0.5] * 5 + [7 / 12, 0.5, 0.5, 0.25, 0]
    assert_allclose(jaccard_index([a, b]), expected, atol=1e-6)


def reference(images):
    """AP, MR and JI by the definitions, one detection after another."""
    pooled, total = [], 0
    for boxes, scores, objects, ignore, size in images:
        corner = np.round(boxes[:, :2], 1)
        extent = np.round(boxes[:, 2:] - boxes[:, :2], 1)
        boxes = clip(np.hstack([corner, corner + extent]), size)
        objects, ignore = clip(objects, size), clip(ignore, size)
        free, total = set(range(len(objects))), total + len(objects)
        for d in sorted(range(len(boxes)), key=lambda i: -round(scores[i], 5)):
            best, best_iou = None, 0.5
            for g in sorted(free):
                iou = overlap(boxes[d : d + 1], objects[g : g + 1])[0, 0]
                if iou > best_iou:
                    best, best_iou = g, iou
            inside = any(
                overlap(boxes[d : d + 1], x[None], over_first=True)[0, 0] > 0.5 for x in ignore
            )
            if best is not None:
                free.remove(best)
            elif inside:
                continue
            pooled.append((round(scores[d], 5), best is not None))
    pooled.sort(key=lambda x: -x[0])
    tp = fp = 0
    points, ap = [], 0.0
    for _, hit in pooled:
        tp, fp = tp + hit, fp + (not hit)
        points.append((tp / total, tp / (tp + fp), fp / len(images)))
    for (r0, p0, _), (r1, p1, _) in zip(points, points[1:], strict=False):
        ap += (r1 - r0) * (p0 + p1) / 2
    misses = []
    for x in FPPI_POINTS:
        recall = next((r for r, _, f in points if f >= x), points[-1][0])
        misses.append(1 - recall)
    return ap, 0.0 if 0 in misses else math.exp(sum(map(math.log, misses)) / 9)


def random_images(seed, count=12):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        objects, ignore = rng.integers(0, 6), rng.integers(0, 3)
        corner = rng.uniform(-5, 80, (objects + ignore, 2))
        truth = np.hstack([corner, corner + rng.uniform(10, 50, corner.shape)])
        near = truth[rng.integers(0, len(truth), 15)] if len(truth) else np.zeros((0, 4))
        near = near + rng.normal(0, 4, near.shape)
        corner = rng.uniform(0, 80, (10, 2))
        boxes = np.vstack([near, np.hstack([corner, corner + rng.uniform(5, 40, corner.shape)])])
        scores = rng.random(len(boxes))
        images.append((boxes, scores, truth[:objects], truth[objects:], (100, 90)))
    return images


def brute_jaccard(images):
    """Every matching of a small image is tried."""
    from itertools import permutations

    sums = np.zeros(len(JI_THRESHOLDS))
    counted = np.zeros(len(JI_THRESHOLDS))
    for boxes, scores, objects, ignore, size in images:
        boxes, objects, ignore = (clip(x, size) for x in (boxes, objects, ignore))
        for t, threshold in enumerate(JI_THRESHOLDS):
            d = boxes[np.round(scores, 5) > threshold]
            iou = overlap(d, objects)
            iou[iou <= 0.5] = 0
            best, pairs = -1.0, []
            small, large = sorted((len(d), len(objects)))
            for order in permutations(range(large), small):
                ij = [(x, y) if len(d) <= len(objects) else (y, x) for x, y in enumerate(order)]
                weight = sum(iou[i, j] for i, j in ij)
                if weight > best + 1e-12:
                    best, pairs = weight, [(i, j) for i, j in ij if iou[i, j] > 0]
            hidden = [(overlap(x, ignore, over_first=True) > 0.5).any(1) for x in (d, objects)]
            left = [set(np.flatnonzero(h)) - {p[k] for p in pairs} for k, h in enumerate(hidden)]
            n, m, k = len(d) - len(left[0]), len(objects) - len(left[1]), len(pairs)
            sums[t] += k / (m + n - k + 1e-6)
            counted[t] += n > 0 or m > 0
    return sums / np.maximum(counted, 1)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definitions_on_random_images(seed):
    images = random_images(seed)
    found = average_precision([image_record(*x) for x in images])
    assert_allclose(found, reference(images), atol=1e-9)
    assert 0.05 < found[0] < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_jaccard_equals_trying_every_matching(seed):
    images = [
        (np.round(b, 0)[:5], s[:5], np.round(o, 0)[:4], np.round(i, 0), size)
        for b, s, o, i, size in random_images(seed, 8)
    ]
    found = jaccard_index([image_record(*x) for x in images])
    assert_allclose(found, brute_jaccard(images), atol=1e-9)
    assert max(found) > 0.1


def test_detections_in_ignore_regions_and_the_order_of_images_do_not_matter():
    images = random_images(7)
    before = [image_record(*x) for x in images]
    changed = []
    for boxes, scores, objects, ignore, size in images:
        ignore = np.vstack([ignore, [[200, 200, 260, 260]]])
        size = 300, 300
        changed.append((boxes, scores, objects, ignore, size))
    plain = [image_record(*x) for x in changed]
    more = [
        image_record(np.vstack([b, [[210, 210, 240, 250]]]), np.append(s, 0.99), *rest)
        for b, s, *rest in changed
    ]
    assert_allclose(average_precision(more), average_precision(plain))
    assert_allclose(jaccard_index(more), jaccard_index(plain))
    assert_allclose(average_precision(before[::-1]), average_precision(before))
    assert_allclose(jaccard_index(before[::-1]), jaccard_index(before))


def test_images_without_detections_objects_or_anything():
    none, one = np.zeros((0, 4)), xyxy((10, 10, 20, 20))
    missed = image_record(none, np.zeros(0), one, none, (50, 50))
    false = image_record(one, np.array([0.5]), none, none, (50, 50))
    ignored = image_record(one, np.array([0.5]), none, one, (50, 50))
    assert average_precision([missed]) == (0.0, 1.0)
    assert not len(ignored.scores) and not ignored.counted.any()
    assert false.counted.tolist() == [True] * 5 + [False] * 5
    assert np.isnan(average_precision([false])).all()
    perfect = image_record(one, np.array([0.95]), one, none, (50, 50))
    assert average_precision([perfect, ignored])[1] == 0.0
    assert_allclose(jaccard_index([perfect]), [1.0] * 10, atol=1e-5)


@pytest.fixture
def catalogs():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def register(tmp_path, name="crowd", classes=("person",), crowd=(False, True)):
    """Three images of 40 x 60 px with an object and, in the first one, a region to ignore."""
    annotations = [
        {"image_id": i, "category_id": 1, "bbox": [5 + i, 5, 20, 20], "area": 400, "iscrowd": 0}
        for i in range(3)
    ]
    annotations.append({**annotations[0], "bbox": [40, 10, 20, 20], "iscrowd": 1})
    coco = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in range(3)],
        "annotations": [{"id": n, **x} for n, x in enumerate(annotations, 1)],
        "categories": [{"id": n, "name": x} for n, x in enumerate(classes, 1)],
    }
    (tmp_path / "crowd.json").write_text(json.dumps(coco))
    for i in range(3):
        (tmp_path / f"{i}.jpg").touch()
    cfg = get_d2kd_cfg()
    cfg.DATASETS.CUSTOM = [[name, str(tmp_path / "crowd.json"), str(tmp_path), "crowdhuman"]]
    register_custom_datasets(cfg)
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


def outputs(i, label=0):
    found = Instances((40, 60))
    found.pred_boxes = Boxes(torch.tensor([[5.0 + i, 5, 25 + i, 25], [40.0, 10, 60, 30]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.3 + i / 10]), torch.full((2,), label)
    return {"instances": found}


def test_evaluator(tmp_path, catalogs):
    cfg = register(tmp_path)
    evaluator = DistillationTrainer.build_evaluator(cfg, "crowd")
    evaluator.process([{"image_id": i} for i in range(3)], [outputs(i) for i in range(3)])
    records = [evaluator._records[i] for i in range(3)]
    assert [len(x.scores) for x in records] == [1, 2, 2]
    ap, mr = average_precision(records)
    found = evaluator.evaluate()["bbox"]
    assert_allclose([found["AP"], found["MR"]], [100 * ap, 100 * mr])
    assert_allclose(found["JI"], 100, atol=1e-3)
    assert found["JI-score"] == 0.5
    evaluator.reset()
    with pytest.raises(ValueError, match="no image of 'crowd' was processed"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match="'crowd' has no image 7"):
        evaluator.process([{"image_id": 7}], [outputs(0)])


def test_one_class_of_many(tmp_path, catalogs):
    register(tmp_path, classes=("person", "dog"))
    evaluator = CrowdHumanEvaluator("crowd")
    evaluator.process([{"image_id": 0}], [outputs(0, label=1)])
    assert len(evaluator._records[0].scores) == 0
    with pytest.raises(ValueError, match="no annotated 'dog'"):
        CrowdHumanEvaluator("crowd", "dog")
    with pytest.raises(ValueError, match="no class 'cat'.*it has person, dog"):
        CrowdHumanEvaluator("crowd", "cat")


def test_builtin_names_wait_for_their_files():
    assert MetadataCatalog.get("crowdhuman_val").evaluator_type == "crowdhuman"
    if not os.path.isfile(MetadataCatalog.get("crowdhuman_val").json_file):
        with pytest.raises(FileNotFoundError, match=r"crowdhuman_val.json.*DETECTRON2_DATASETS"):
            CrowdHumanEvaluator("crowdhuman_val")


def evaluate_half(rank, folder):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    images = random_images(3)
    evaluator = CrowdHumanEvaluator.__new__(CrowdHumanEvaluator)
    evaluator.name, evaluator._truth = "random", {i: None for i in range(12)}
    evaluator._records = {i: image_record(*images[i]) for i in range(rank, 12, 2)}
    results = evaluator.evaluate()
    assert bool(results) == (rank == 0)
    if rank == 0:
        ap, mr = average_precision([image_record(*x) for x in images])
        assert_allclose([results["bbox"]["AP"], results["bbox"]["MR"]], [100 * ap, 100 * mr])
    dist.destroy_process_group()


def test_two_ranks_give_what_one_process_gives(tmp_path):
    mp.spawn(evaluate_half, (str(tmp_path),), nprocs=2)


def test_persons_of_coco(data_root, catalogs):
    """The objects themselves as detections: everything is found, nothing is wrong."""
    cfg = get_d2kd_cfg()
    folder = data_root / "coco"
    entry = ["coco_crowd", str(folder / "annotations" / "instances_val2017.json"),
             str(folder / "val2017"), "crowdhuman"]  # fmt: skip
    cfg.DATASETS.CUSTOM = [entry]
    register_custom_datasets(cfg)
    evaluator = CrowdHumanEvaluator("coco_crowd")
    for image_id, (objects, _, size) in evaluator._truth.items():
        found = Instances(size)
        found.pred_boxes = Boxes(torch.tensor(objects, dtype=torch.float32))
        found.scores = torch.full((len(objects),), 0.95)
        found.pred_classes = torch.zeros(len(objects), dtype=torch.long)
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP"] > 98 and results["MR"] < 1 and results["JI"] > 99
    assert sum(len(x[0]) for x in evaluator._truth.values()) > 100
