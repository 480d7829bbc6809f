"""RepPoints: head, losses, labels, decoding and inference against plain re-computations."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec, batched_nms
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from d2kd.detectors import point_head
from d2kd.detectors.point_head import RepPointsHead
from d2kd.losses.points import boxes_of_points
from d2kd.testing import make_batch, tiny_cfg

GRID = torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 2)


def build(seed=0, lively=False, **keys):
    cfg = tiny_cfg("RepPoints")
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.REPPOINTS.{key}", value])
    torch.manual_seed(seed)
    model = build_model(cfg).train()
    if lively:
        scatter(model)
    return model


@torch.no_grad()
def scatter(model):
    """Points that make boxes of some size, and scores that differ."""
    model.head.pts_init.bias.copy_(2.5 * GRID.flatten())
    torch.nn.init.normal_(model.head.pts_init.weight, std=3.0)
    torch.nn.init.normal_(model.head.bbox_pred.weight, std=3.0)
    torch.nn.init.normal_(model.head.cls_score.weight, std=30.0)
    for name in ("cls_conv", "pts_refine_conv", "pts_init_conv"):
        torch.nn.init.normal_(getattr(model.head, name).weight, std=0.1)
    torch.nn.init.zeros_(model.head.cls_score.bias)


def predictions(model, batch):
    """Logits, refined and first points, all levels together, and anchors by level."""
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    features = [features[name] for name in model.head_in_features]
    maps = model._transpose_dense_predictions(model.head(features), model.prediction_dims)
    return *(torch.cat(x, 1) for x in maps), model.anchor_generator(features)


def head(**keys):
    torch.manual_seed(0)
    return RepPointsHead(input_shape=[ShapeSpec(channels=4)], num_classes=3, **keys)


@pytest.mark.parametrize("at_grid", [True, False])
def test_kernel_points_sample_at_the_first_points(at_grid):
    """At the grid the deformable convolution is the plain one; at 0 all read the cell itself."""
    model, x = head(norm="", num_convs=0), torch.rand(2, 4, 5, 6)
    torch.nn.init.zeros_(model.pts_init.weight)
    with torch.no_grad():
        model.pts_init.bias.copy_(GRID.flatten() * at_grid)
        model.cls_conv.weight.normal_()
        logits, refined, first = (x[0] for x in model([x]))
    weight = model.cls_conv.weight
    kind = (weight, 1) if at_grid else (weight.sum((2, 3), keepdim=True), 0)
    assert_close(logits, model.cls_score(F.conv2d(x, kind[0], padding=kind[1]).relu()))
    assert bool((first == GRID.view(-1, 1, 1) * at_grid).all()) and refined.shape == first.shape


@pytest.mark.parametrize(("part", "factor"), [(0, 0.1), (1, 0.1), (2, 1.0)])
def test_what_trains_the_first_points(monkeypatch, part, factor):
    """Classes and refined points by way of the places alone, and a tenth of that."""
    torch.manual_seed(0)
    gradients, x = [], torch.rand(1, 4, 5, 6)
    for scale in (0.1, 1.0):
        monkeypatch.setattr(point_head, "_OFFSET_GRADIENT", scale)
        model = head(norm="", num_convs=1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(30)
        model([x])[part][0].sum().backward()
        gradients.append(model.pts_init.weight.grad)
    assert_close(gradients[0], factor * gradients[1])
    assert bool(gradients[0].any())


def test_parameters_and_their_start():
    model = build_model(tiny_cfg("RepPoints", channels=64))
    for name in ("cls_conv", "pts_refine_conv", "pts_init_conv", "pts_init", "bbox_pred"):
        assert_close(getattr(model.head, name).weight.std(), torch.tensor(0.01), atol=2e-3, rtol=0)
    assert_close(model.head.cls_score.bias.detach().sigmoid(), torch.full((3,), 0.01))
    assert model.moment_transfer.tolist() == [0, 0]
    assert not any("grid" in name for name in model.state_dict())


def test_box_losses_by_hand():
    """Half the smooth L1 of sides (0, 0, 42, 32) and (10, 10, 42, 42), in units of 32 px."""
    model = build(TRANSFORM="minmax")
    anchors = [Boxes(torch.tensor([[8.0, 8, 40, 40]])), *(Boxes(torch.zeros(0, 4)),) * 4]
    points = torch.zeros(1, 1, 18)
    points[..., :4] = torch.tensor([-3.0, -3.0, 1.0, 2.25])
    box = torch.tensor([[[10.0, 10, 42, 42]] * 2])
    labels = torch.tensor([[1, 1]])
    logits = torch.full((1, 1, 3), -50.0)
    empty = [torch.zeros(1, 0, d) for d in (3, 18)]
    levels = [[x, *[e] * 4] for x, e in ((logits, empty[0]), (points, empty[1]))]
    losses = model.losses(anchors, levels[0], [labels], levels[1], [box], levels[1])
    assert_close(losses["loss_pts_init"].item(), 0.386250, atol=1e-6, rtol=0)
    assert_close(losses["loss_pts_refine"].item(), 0.7725, atol=1e-6, rtol=0)


@pytest.mark.parametrize("transform", ["moment", "minmax", "partial_minmax"])
def test_losses_equal_a_plain_computation(transform):
    model = build(lively=True, TRANSFORM=transform)
    batch = make_batch(sizes=((96, 128), (80, 64), (96, 128)), boxes=6)
    batch[1]["instances"] = batch[1]["instances"][:0]
    losses = model(batch)
    logits, refined, first, anchors = predictions(model, batch)
    gt = [x["instances"] for x in batch]
    labels, boxes = model.label_anchors(anchors, gt, first.split([len(x) for x in anchors], 1))
    labels, boxes = torch.stack(labels), torch.stack(boxes)
    centers = Boxes.cat(anchors).get_centers()
    stride = torch.cat([torch.full((len(x),), 8.0 * 2**i) for i, x in enumerate(anchors)])
    expected, moment = {}, model.moment_transfer
    for stage, (name, points) in enumerate((("refine", refined), ("init", first))):
        positive = (labels[..., stage] >= 0) & (labels[..., stage] < 3)
        count = positive.sum(1).clamp(min=1).sum()
        box = boxes_of_points(points, transform, moment) * stride[:, None] + centers.repeat(1, 2)
        away = ((box - boxes[..., stage, :]) / (4 * stride[:, None])).abs()[positive]
        smooth = torch.where(away < 0.11, away.square() / 0.22, away - 0.055)
        expected[f"loss_pts_{name}"] = (1.0, 0.5)[stage] * smooth.sum() / count
        if stage == 0:
            target = F.one_hot(labels[..., 0].clamp(min=0), 4)[..., :3].float()
            focal = sigmoid_focal_loss(logits, target)[labels[..., 0] >= 0].sum()
            expected["loss_cls"] = focal / count
            assert 10 < int(positive.sum()) and not positive[1].any()
    assert {k: round(v.item(), 4) for k, v in losses.items()} == {
        k: pytest.approx(v.item(), rel=1e-4, abs=1e-4) for k, v in expected.items()
    }


def labelled(model, batch):
    _, _, first, anchors = predictions(model, batch)
    gt = [x["instances"] for x in batch]
    return model.label_anchors(anchors, gt, first.split([len(x) for x in anchors], 1))


def test_padding_is_ignored_and_low_quality_by_choice():
    """At the start all first boxes are points, which overlap no object unless they lie in one."""
    batch = make_batch(sizes=((96, 128), (40, 64)))
    for x in batch:  # 4 px wide, between the points
        x["instances"].gt_boxes = Boxes(torch.tensor([[2.0, 2, 6, 6]] * 4))
    for low_quality, positives in (("overlapping", 0), ("official", 12 * 16 + 6 * 8 + 3 * 4 + 5)):
        labels, boxes = labelled(build(LOW_QUALITY=low_quality), batch)
        finest = labels[1][: 12 * 16].view(12, 16, 2)
        assert bool((finest[:8, :8] >= 0).all())
        assert bool((finest[8:] == -1).all()) and bool((finest[:, 8:] == -1).all())
        first, second = labels[0].unbind(1)[::-1]
        assert int((first < 3).sum()) == 1 and int((second < 3).sum()) == positives
        assert boxes[0].shape == (len(first), 2, 4)


def test_order_of_boxes_leaves_the_losses():
    model, batch = build(lively=True), make_batch()
    before = model(batch)
    for x in batch:
        x["instances"] = x["instances"][torch.tensor([2, 0, 3, 1])]
    assert_close(model(batch), before)


@pytest.mark.parametrize("boxes", [0, 3])
@pytest.mark.parametrize("transform", ["moment", "minmax"])
def test_every_parameter_has_a_gradient(boxes, transform):
    model = build(TRANSFORM=transform)
    losses = model(make_batch(boxes=boxes))
    assert all(bool(x.isfinite()) for x in losses.values())
    sum(losses.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_boxes_of_no_size_and_mixed_precision():
    model, batch = build(lively=True), make_batch(boxes=3)
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch)
    for name, value in mixed.items():
        assert value.dtype == torch.float32
        assert_close(value, exact[name], atol=0.1, rtol=0.1)
    for x in batch:
        x["instances"].gt_boxes = Boxes(torch.tensor([[3.0, 3, 5, 5], [10, 10, 10, 10], [8] * 4]))
    assert all(bool(x.isfinite()) for x in model(batch).values())


def test_gradients_of_the_losses():
    model = build(lively=True).double()
    batch = make_batch(sizes=((32, 32),), boxes=2)
    logits, refined, first, anchors = predictions(model, [
        {**x, "image": x["image"].double()} for x in batch
    ])  # fmt: skip
    sizes = [len(x) for x in anchors]
    gt = [x["instances"] for x in batch]
    labels, boxes = model.label_anchors(anchors, gt, first.split(sizes, 1))

    def total(logits, refined, first):
        levels = (x.split(sizes, 1) for x in (logits, refined, first))
        z, d2, d1 = map(list, levels)
        return sum(model.losses(anchors, z, labels, d2, boxes, d1).values())

    inputs = [x.detach().requires_grad_() for x in (logits, refined, first)]
    assert torch.autograd.gradcheck(total, inputs)


def test_inference_equals_a_plain_computation():
    model, batch = build(lively=True), make_batch(sizes=((96, 128),))
    model.test_topk_candidates, model.max_detections_per_image = 40, 20
    with torch.no_grad():
        found = model.eval()(batch)[0]["instances"]
        logits, refined, _, anchors = predictions(model, batch)
    boxes, scores, classes, start = [], [], [], 0
    for level, points in enumerate(anchors):
        part = slice(start, start + len(points))
        start += len(points)
        score = logits[0, part].sigmoid().flatten()
        order = score.argsort(descending=True)[:40]
        order = order[score[order] > 0.05]
        cell, label = order // 3, order % 3
        center = points.get_centers()[cell].repeat(1, 2)
        box = center + 8 * 2**level * boxes_of_points(refined[0, part][cell], "moment")
        boxes.append(box.clamp(min=0).minimum(torch.tensor([128.0, 96, 128, 96])))
        scores.append(score[order])
        classes.append(label)
    boxes, scores, classes = (torch.cat(x) for x in (boxes, scores, classes))
    keep = batched_nms(boxes, scores, classes, 0.5)[:20]
    assert len(keep) == 20
    assert_close(found.scores, scores[keep])
    assert_close(found.pred_boxes.tensor, boxes[keep], atol=1e-4, rtol=1e-5)
    assert torch.equal(found.pred_classes, classes[keep])


@pytest.mark.parametrize(("key", "value", "match"), [
    ("TRANSFORM", "minmaxx", r"MODEL.REPPOINTS.TRANSFORM: unknown 'minmaxx'.*moment, partial_min"),
    ("LOW_QUALITY", "all", "MODEL.REPPOINTS.LOW_QUALITY: unknown 'all'"),
    ("NORMALIZER", "ranks", "MODEL.REPPOINTS.NORMALIZER: unknown 'ranks'"),
    ("IOU_THRESHOLDS", [0.5], r"MODEL.REPPOINTS.IOU_THRESHOLDS is \[0.5\]: give two"),
])  # fmt: skip
def test_mistakes_are_explained(key, value, match):
    with pytest.raises(ValueError, match=match):
        build(**{key: value})
