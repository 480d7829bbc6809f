"""GFL and GFLv2: losses, normalizers, decoding and inference against plain re-computations."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode
from PIL import Image
from torch.testing import assert_close
from torchvision.ops import box_iou, generalized_box_iou

import d2kd.detectors.gfl as gfl
from d2kd.testing import make_batch, tiny_cfg
from tests.detectors.test_atss import predictions


def build(quality="none", reg_max=8, seed=0):
    cfg = tiny_cfg("GFL")
    cfg.MODEL.GFL.QUALITY, cfg.MODEL.GFL.REG_MAX = quality, reg_max
    torch.manual_seed(seed)
    return build_model(cfg).train()


def strides_of(model, anchors):
    sides = (anchors[:, 2] - anchors[:, 0]).round()
    return sides / 4  # tiny_cfg's anchors are 4 strides wide


def distances_of(model, deltas):
    return F.softmax(deltas.view(-1, 4, 9), -1) @ torch.arange(9.0)


def boxes_of(model, deltas, anchors):
    center, d = (anchors[:, :2] + anchors[:, 2:]) / 2, distances_of(model, deltas)
    d = d * strides_of(model, anchors)[:, None]
    return torch.cat([center - d[:, :2], center + d[:, 2:]], 1)


def qfl(score, target):
    return (score - target).abs() ** 2 * F.binary_cross_entropy(score, target, reduction="none")


@pytest.mark.parametrize("quality", ["none", "DGQP"])
def test_losses_equal_a_plain_computation(quality):
    model, batch = build(quality), make_batch(boxes=5)
    torch.nn.init.normal_(model.head.bbox_pred.weight, std=0.5)
    losses = model(batch)
    logits, deltas, *branch, anchors, labels, boxes = predictions(model, batch)
    scores = logits.sigmoid() * (branch[0].sigmoid() if branch else 1)
    image, cell = ((labels >= 0) & (labels < 3)).nonzero(as_tuple=True)
    count = sum(max(int(((x >= 0) & (x < 3)).sum()), 1) for x in labels)
    found, gt = boxes_of(model, deltas[image, cell], anchors[cell]), boxes[image, cell]
    goal = torch.zeros_like(scores)
    goal[image, cell, labels[image, cell]] = box_iou(found, gt).diagonal().detach()
    assert_close(losses["loss_cls"], qfl(scores, goal)[labels >= 0].sum() / count)
    u = scores[image, cell].amax(1).detach()
    total = u.sum().clamp(min=1)
    giou = generalized_box_iou(found, gt).diagonal()
    expected = 2 * (u * (1 - giou)).sum() / total
    assert_close(losses["loss_box_reg"], expected, atol=1e-5, rtol=1e-5)
    center = (anchors[cell, :2] + anchors[cell, 2:]) / 2
    target = torch.cat([center - gt[:, :2], gt[:, 2:] - center], 1)
    target = (target / strides_of(model, anchors[cell])[:, None]).clamp(0, 7.9)
    low, log_p = target.long(), F.log_softmax(deltas[image, cell].view(-1, 4, 9), -1)
    part = target - low
    dfl = -((1 - part) * log_p.gather(2, low[..., None])[..., 0]
            + part * log_p.gather(2, low[..., None] + 1)[..., 0])  # fmt: skip
    assert_close(losses["loss_dfl"], 0.25 * (u * dfl.mean(1)).sum() / total)


def test_box_from_one_certain_side():
    model = build(reg_max=16)
    logits = torch.zeros(1, 68)
    logits[0, 5] = 1e4
    box = model.decode(logits, torch.tensor([[-32.0, -32, 32, 32]]), torch.tensor([8.0]))
    assert_close(box, torch.tensor([[-40.0, -64, 64, 64]]))


@pytest.mark.parametrize(("scores", "expected"), [((0.5, 0.9), 1.0), ((1.5, 2.9), 2.2)])
def test_normalizers_are_means_over_ranks_held_above_one(monkeypatch, scores, expected):
    """Two ranks with 3 and 5 positives and these sums of scores, played by one process."""
    seen = []

    def mean(x):
        other = torch.tensor([5.0, scores[1]])
        seen.append((torch.tensor([3.0, scores[0]]) + other) / 2)
        return seen[-1]

    monkeypatch.setattr(gfl, "mean_over_ranks", mean)
    model, batch = build(), make_batch()
    ours = model(batch)
    monkeypatch.setattr(gfl, "mean_over_ranks", lambda x: torch.ones(2))
    plain = model(batch)
    assert seen[0][0] == 4
    assert_close(ours["loss_cls"] * 4, plain["loss_cls"])
    assert_close(ours["loss_box_reg"] * expected, plain["loss_box_reg"])
    assert_close(ours["loss_dfl"] * expected, plain["loss_dfl"])


@pytest.mark.parametrize("quality", ["none", "DGQP"])
@pytest.mark.parametrize("boxes", [0, 3])
def test_every_parameter_has_a_gradient(quality, boxes):
    model = build(quality)
    losses = model(make_batch(boxes=boxes))
    assert all(bool(x.isfinite()) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_class_loss_reaches_the_box_tower_through_the_quality():
    for quality, expected in (("none", False), ("DGQP", True)):
        model = build(quality)
        model(make_batch())["loss_cls"].backward()
        moved = model.head.bbox_pred.weight.grad
        assert (moved is not None and bool(moved.any())) == expected


@pytest.mark.parametrize("quality", ["none", "DGQP"])
def test_inference_scores_and_boxes(quality):
    model, batch = build(quality), make_batch(sizes=((96, 128),))
    torch.nn.init.zeros_(model.head.cls_score.bias)
    torch.nn.init.normal_(model.head.cls_score.weight, std=5.0)
    model.test_nms_thresh = 1.1
    model.max_detections_per_image = model.test_topk_candidates = 10000
    with torch.no_grad():
        found = model.eval()(batch)[0]["instances"]
        logits, deltas, *branch, anchors, _, _ = predictions(model, batch)
    scores = logits[0].sigmoid() * (branch[0][0].sigmoid() if branch else 1)
    cell, label = (scores > 0.05).nonzero(as_tuple=True)
    order = scores[cell, label].argsort(descending=True)
    cell, label = cell[order], label[order]
    boxes = boxes_of(model, deltas[0, cell], anchors[cell]).clamp(min=0)
    boxes = boxes.minimum(torch.tensor([128.0, 96, 128, 96]))
    full = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert 0 < len(found) == int(full.sum())
    assert_close(found.scores, scores[cell, label][full])
    assert_close(found.pred_boxes.tensor, boxes[full], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("boxes", [0, 4])
def test_bfloat16_losses_are_computed_in_float(boxes):
    model = build("DGQP")
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(make_batch(boxes=boxes))
    assert {x.dtype for x in losses.values()} == {torch.float32}
    assert all(bool(x.isfinite()) for x in losses.values())
    exact = model(make_batch(boxes=boxes))
    for name, value in losses.items():
        assert_close(value, exact[name], atol=0.05, rtol=0.05)


def test_crowd_boxes_are_background(tmp_path):
    """Detectron2's mapper drops crowds before the detector sees them."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    note = {"bbox": [0, 0, 40, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 1}
    record = {"file_name": str(tmp_path / "a.png"), "height": 64, "width": 64}
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    model = build()
    anchors = predictions(model, make_batch(sizes=((64, 64),)))[2]
    levels = anchors.split([64, 16, 4, 1, 1])
    for crowd, positives in ((1, 0), (0, 1)):
        instances = mapper({**record, "annotations": [{**note, "iscrowd": crowd}]})["instances"]
        assert len(instances) == 1 - crowd
        labels, _ = model.label_anchors([Boxes(x) for x in levels], [instances])
        assert (int((labels[0] < 3).sum()) > 0) == bool(positives)


@pytest.mark.parametrize(("key", "value", "match"), [
    ("QUALITY", "DGPQ", "MODEL.GFL.QUALITY: unknown 'DGPQ'. Did you mean 'DGQP'"),
    ("REG_MAX", 2, "MODEL.GFL.REG_MAX must be at least 3, not 2"),
])  # fmt: skip
def test_mistakes_are_explained(key, value, match):
    cfg = tiny_cfg("GFL")
    cfg.MODEL.GFL[key] = value
    with pytest.raises(ValueError, match=match):
        build_model(cfg)
