"""ATSS: losses, padding, decoding and inference against plain re-computations."""

import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from d2kd.detectors.atss import centerness
from d2kd.testing import make_batch, tiny_cfg


def build(seed=0, **keys):
    cfg = tiny_cfg("ATSS")
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.ATSS.{key}", value])
    torch.manual_seed(seed)
    return build_model(cfg).train()


def predictions(model, batch):
    """Flat predictions, anchors, labels, matched boxes."""
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    features = [features[name] for name in model.head_in_features]
    maps = model._transpose_dense_predictions(model.head(features), model.prediction_dims)
    anchors = model.anchor_generator(features)
    labels, boxes = model.label_anchors(anchors, [x["instances"] for x in batch])
    flat = [torch.cat(x, 1) for x in maps]
    return *flat, Boxes.cat(anchors).tensor, torch.stack(labels), torch.stack(boxes)


def test_focal_values():
    zero = torch.zeros(1, dtype=torch.float64)
    for target, expected in ((1.0, 0.043322), (0.0, 0.129965)):
        loss = sigmoid_focal_loss(zero, zero + target)
        assert_close(loss.item(), expected, atol=1e-6, rtol=0)


def test_centerness_value():
    anchor, box = torch.tensor([[-4.0, -4, 4, 4]]), torch.tensor([[-2.0, -3, 6, 3]])
    assert_close(centerness(anchor, box), torch.tensor([0.577350]), atol=1e-6, rtol=0)


def test_decoded_values():
    anchor = torch.tensor([[-32.0, -32, 32, 32]])
    box = build().decode(torch.tensor([[1.0, 0, 0.5, 0]]), anchor, None)
    expected = torch.tensor([[-28.965469, -32, 41.765469, 32]])
    assert_close(box, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("quality", ["centerness", "iou"])
def test_losses_equal_a_plain_computation(quality):
    model, batch = build(QUALITY=quality), make_batch(boxes=5)
    torch.nn.init.normal_(model.head.bbox_pred.weight, std=0.5)
    losses = model(batch)
    logits, deltas, branch, anchors, labels, boxes = predictions(model, batch)
    image, cell = ((labels >= 0) & (labels < 3)).nonzero(as_tuple=True)
    assert len(image) > 5
    count = sum(max(int(((x >= 0) & (x < 3)).sum()), 1) for x in labels)
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), 4)[..., :3].float()
    focal = sigmoid_focal_loss(logits, one_hot)[labels >= 0].sum()
    assert_close(losses["loss_cls"], focal / count)
    box = model.box2box_transform.apply_deltas(deltas[image, cell], anchors[cell])
    giou = generalized_box_iou(box, boxes[image, cell]).diagonal()
    goal = centerness(anchors[cell], boxes[image, cell])
    if quality == "iou":
        goal = torch.stack([torch_iou(a, b) for a, b in zip(box, boxes[image, cell], strict=True)])
        expected = 2 * (1 - giou).sum() / count
    else:
        expected = 2 * (goal * (1 - giou)).sum() / goal.sum().clamp(min=1)
    assert_close(losses["loss_box_reg"], expected, atol=1e-5, rtol=1e-5)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        branch[image, cell, 0], goal.detach(), reduction="sum"
    )
    assert_close(losses["loss_quality"], entropy / count)


def torch_iou(a, b):
    from torchvision.ops import box_iou

    return box_iou(a[None], b[None])[0, 0]


def test_padding_is_ignored():
    model, batch = build(), make_batch(sizes=((96, 128), (40, 64)))
    labels = predictions(model, batch)[4]
    finest = labels[1, : 12 * 16].view(12, 16)
    assert bool((finest[:8, :8] >= 0).all())
    assert bool((finest[8:] == -1).all()) and bool((finest[:, 8:] == -1).all())
    assert bool((labels[0] >= 0).all())


@pytest.mark.parametrize("boxes", [0, 3])
def test_every_parameter_has_a_gradient(boxes):
    model = build()
    losses = model(make_batch(boxes=boxes))
    assert all(bool(x.isfinite()) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_boxes_smaller_than_a_stride_and_of_no_size():
    model, batch = build(), make_batch(boxes=3)
    tiny = torch.tensor([[3.0, 3, 5, 5], [10, 10, 10, 10], [8, 8, 9, 9]])
    for x in batch:
        x["instances"].gt_boxes = Boxes(tiny)
    losses = model(batch)
    assert all(bool(x.isfinite()) for x in losses.values())


def test_inference_equals_a_plain_computation():
    model, batch = build(), make_batch(sizes=((96, 128),))
    torch.nn.init.zeros_(model.head.cls_score.bias)
    torch.nn.init.normal_(model.head.cls_score.weight, std=5.0)
    torch.nn.init.normal_(model.head.bbox_pred.weight, std=1.0)
    torch.nn.init.normal_(model.head.ctrness.weight, std=1.0)
    model.test_topk_candidates, model.max_detections_per_image = 40, 20
    with torch.no_grad():
        found = model.eval()(batch)[0]["instances"]
        logits, deltas, branch, anchors, _, _ = predictions(model, batch)
    boxes, scores, classes, start = [], [], [], 0
    for cells in (12 * 16, 6 * 8, 3 * 4, 2 * 2, 1):
        part = slice(start, start + cells)
        start += cells
        score = logits[0, part].sigmoid().flatten()
        order = score.argsort(descending=True)[:40]
        order = order[score[order] > 0.05]
        cell, label = order // 3, order % 3
        box = model.box2box_transform.apply_deltas(deltas[0, part][cell], anchors[part][cell])
        boxes.append(box.clamp(min=0).minimum(torch.tensor([128.0, 96, 128, 96])))
        scores.append(score[order] * branch[0, part][cell, 0].sigmoid())
        classes.append(label)
    boxes, scores, classes = (torch.cat(x) for x in (boxes, scores, classes))
    keep = batched_nms(boxes, scores, classes, 0.6)[:20]
    assert len(keep) == 20
    assert_close(found.scores, scores[keep])
    assert_close(found.pred_boxes.tensor, boxes[keep], atol=1e-4, rtol=1e-5)
    assert torch.equal(found.pred_classes, classes[keep])


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match=r"MODEL.ATSS.QUALITY: unknown 'IoU'.*centerness, iou"):
        build(QUALITY="IoU")
    cfg = tiny_cfg("ATSS")
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0]]
    with pytest.raises(ValueError, match="one anchor per cell, but MODEL.ANCHOR_GENERATOR gives"):
        build_model(cfg)
