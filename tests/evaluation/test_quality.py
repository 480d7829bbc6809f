"""Predicted quality against true IoU: the locations, the statistics, two ranks, the command."""

import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from numpy.testing import assert_allclose

from d2kd.evaluation import QualityEvaluator, QualityProbe
from d2kd.evaluation.quality import agreement
from d2kd.testing import make_batch
from tests.helpers import d2kd, detector, write_config
from tests.ranks import two_ranks


def test_agreement_by_hand():
    """Bins [0, 1/2) and [1/2, 1]: means 0.2 and 0.8, IoUs 0.3 and 0.6, two values each."""
    predicted, iou = np.array([0.1, 0.3, 0.7, 0.9]), np.array([0.2, 0.4, 0.7, 0.5])
    found = agreement(predicted, iou, bins=2)
    assert_allclose(found["ece"], (0.1 + 0.2) / 2)
    assert_allclose(found["spearman"], 1 - 6 * (0 + 0 + 1 + 1) / (4 * 15), atol=1e-12)
    x, y = predicted - 0.5, iou - 0.45
    assert_allclose(found["pearson"], (x @ y) / np.sqrt((x @ x) * (y @ y)))
    assert (found["count"], found["mean"], found["mean_iou"]) == (4, 0.5, 0.45)


def test_perfect_and_constant_predictions():
    iou = np.linspace(0, 1, 101)
    found = agreement(iou, iou)
    assert_allclose([found["pearson"], found["spearman"], found["ece"]], [1, 1, 0], atol=1e-12)
    found = agreement(np.full(101, 0.5), iou)
    assert np.isnan(found["pearson"]) and abs(found["ece"]) < 1e-12


@pytest.mark.parametrize(
    "meta", ["RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints", "SDGQP"]
)
def test_positive_locations_and_their_boxes(meta):
    keys = {"MODEL__GFL__QUALITY": "SDGQP"} if meta == "SDGQP" else {}
    model = detector("GFL" if meta == "SDGQP" else meta, **keys).eval()
    batch = make_batch()
    probe = QualityProbe(model)
    found = probe(batch)
    assert not probe.training
    gt = [x["instances"] for x in batch]
    out = probe.adapter(probe.adapter.preprocess(batch, 32), None, frozenset({"logits"}))
    labels, _ = probe.adapter.label(out, gt)
    for values, label in zip(found, labels, strict=True):
        count = int(((label >= 0) & (label < 3)).sum())
        assert {len(x) for x in values.values()} == {count} and count > 0
        assert all(0 <= x.min() and x.max() <= 1 for x in values.values())
        assert ("quality" in values) == (meta in ("FCOS", "ATSS", "AutoAssign", "DDOD", "SDGQP"))


def test_true_iou_of_known_boxes():
    """Boxes half as wide as the object, from the same corner, have IoU 1/2."""
    model = detector("GFL").eval()
    probe, batch = QualityProbe(model), make_batch()

    def decode(out):
        gt = [x["instances"] for x in batch]
        _, boxes = model.label_anchors(list(out.anchors.values()), gt)
        boxes = torch.stack(boxes)
        boxes[..., 2] = (boxes[..., 0] + boxes[..., 2]) / 2
        sizes = [x.shape[1] for x in out.deltas.values()]
        return dict(zip(out.deltas, boxes.split(sizes, 1), strict=True))

    probe.adapter.decode = decode
    for values in probe(batch):
        assert_allclose(values["iou"], 0.5, atol=1e-6)


def outputs():
    rng = np.random.default_rng(0)
    return [{"iou": rng.random(5), "score": rng.random(5), "quality": rng.random(5)}
            for _ in range(6)]  # fmt: skip


def evaluate_half(rank, folder):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    evaluator = QualityEvaluator()
    evaluator.process([], outputs()[3 * rank : 3 * rank + 3])
    results = evaluator.evaluate()
    assert bool(results) == (rank == 0)
    if rank == 0:
        torch.save(results, f"{folder}/results.pth")
    dist.destroy_process_group()


def test_two_ranks_give_what_one_process_gives(tmp_path):
    evaluator = QualityEvaluator()
    evaluator.process([], outputs())
    expected = evaluator.evaluate()
    two_ranks(evaluate_half, str(tmp_path))
    assert torch.load(tmp_path / "results.pth", weights_only=False) == expected


def test_the_command(tmp_path, squares):
    path = write_config(tmp_path, squares, MODEL__RETINANET__NUM_CLASSES=2)
    torch.save({"model": detector(MODEL__RETINANET__NUM_CLASSES=2).state_dict()},
               tmp_path / "model.pth")  # fmt: skip
    arguments = ["quality", path, "--output", tmp_path / "quality"]
    done = d2kd(*arguments, "--weights", tmp_path / "model.pth")
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "quality" / "quality.json").read_text())["results"]
    assert set(results) == {"score"} and results["score"]["count"] > 0
    assert (tmp_path / "quality" / "quality.png").stat().st_size > 5000
    assert json.loads(done.stdout[done.stdout.index("{") :])["results"] == results
    half = detector(MODEL__RETINANET__NUM_CLASSES=2).state_dict()
    half = {k: x for k, x in half.items() if not k.startswith("head.")}
    torch.save({"model": half}, tmp_path / "half.pth")
    refused = d2kd(*arguments, "--weights", tmp_path / "half.pth")
    assert refused.exit_code == 1 and "tensors are missing: head." in refused.output
    wrong = {"d2kd": "0.1.0", "classes": ["green", "red"]}
    (tmp_path / "run.json").write_text(json.dumps(wrong))
    refused = d2kd(*arguments, "--weights", tmp_path / "model.pth")
    assert refused.exit_code == 1 and "Give the categories" in refused.output
    refused = d2kd(*arguments)
    assert refused.exit_code == 1 and "has no checkpoint: add --weights FILE" in refused.output


def test_errors():
    with pytest.raises(TypeError, match="GeneralizedRCNN has no dense head"):
        QualityProbe(detector("GeneralizedRCNN"))
    with pytest.raises(ValueError, match="no positive location"):
        QualityEvaluator().evaluate()
