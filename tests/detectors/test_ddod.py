"""DDOD: losses, level factors and deformable towers against plain re-computations."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch.testing import assert_close
from torchvision.ops import deform_conv2d, generalized_box_iou, sigmoid_focal_loss

from d2kd.adapters import build_adapter
from d2kd.config import check_config
from d2kd.detectors.loss_normalizer import (
    averages_to_save,
    moving_averages,
    set_moving_averages,
)
from d2kd.errors import ConfigError
from d2kd.losses.level_factors import level_factors
from d2kd.testing import make_batch, tiny_cfg
from tests.detectors.test_assigner import pairwise

CELLS = (12 * 16, 6 * 8, 3 * 4, 2 * 2, 1)


def build(meta="DDOD", seed=0, channels=8, lively=True, **keys):
    cfg = tiny_cfg(meta, channels)
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{meta}.{key}", value])
    torch.manual_seed(seed)
    model = build_model(cfg).train()
    if lively:  # the two branches then have positives of their own, on two levels
        torch.nn.init.normal_(model.head.cls_score.weight, std=3.0)
        torch.nn.init.normal_(model.head.bbox_pred.weight, std=1.5)
    return model


def predictions(model, batch):
    """Maps by level, anchors by level, labels and matched boxes."""
    images = model.preprocess_image(batch)
    features = [model.backbone(images.tensor)[name] for name in model.head_in_features]
    maps = model._transpose_dense_predictions(model.head(features), model.prediction_dims)
    anchors = model.anchor_generator(features)
    found = model.label_anchors(anchors, [x["instances"] for x in batch], *maps[:2])
    return maps, anchors, *(torch.stack(x) for x in found)


def with_offsets(model):
    """Offsets of the towers' first convolutions that are not zero."""
    for tower in (model.head.cls_subnet, model.head.bbox_subnet):
        torch.nn.init.normal_(tower[0].offset.weight, std=0.3)
        torch.nn.init.normal_(tower[0].offset.bias, std=0.3)
    return model


def test_level_factors_by_hand():
    """Toy D2."""
    cls, box = torch.tensor([[24.0, 28, 6, 0, 0], [22, 22, 4, 0, 0]]).double()
    for counts, expected in (
        (cls, [1.142857, 1, 1.785714, 2, 2]), (box, [1, 1, 1.818182, 2, 2]),
        (cls + box, [1.08, 1, 1.8, 2, 2]), (0 * cls, [2] * 5),
    ):  # fmt: skip
        assert_close(level_factors(counts), torch.tensor(expected).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("counters", "expected"), [
    ("separate", [[1.142857, 1, 1.785714, 2, 2], [1, 1, 1.818182, 2, 2]]),
    ("shared", [[1.142857, 1, 1.785714, 2, 2], [1.08, 1, 1.8, 2, 2]]),
])  # fmt: skip
def test_counters_by_hand(counters, expected):
    """Toy D2 as two images, and the same batch again."""
    model, cells = build(COUNTERS=counters), [30] * 5
    positive = torch.zeros(2, 150, 2, dtype=torch.bool)
    for level, (cls, box) in enumerate(zip((12, 14, 3, 0, 0), (11, 11, 2, 0, 0), strict=True)):
        positive[:, 30 * level : 30 * level + cls, 0] = True
        positive[:, 30 * level : 30 * level + box, 1] = True
    counts, factors = model._balance(positive, cells)
    assert counts.tolist() == [58, 48]
    assert_close(factors[:, ::30], torch.tensor(expected), atol=1e-6, rtol=0)
    assert torch.equal(factors[:, ::30].repeat_interleave(30, 1), factors)
    before = model.level_counts
    model._balance(positive, cells)
    assert torch.equal(model.level_counts[0 if counters == "separate" else 1], 2 * before[-1]
                       if counters == "shared" else 2 * before[0])  # fmt: skip
    assert model._balance(torch.zeros_like(positive), cells)[0].tolist() == [2, 2]


def test_box_losses_by_hand():
    """Toy D7, on a level of factor 1; nothing is positive on the other one."""
    model = build()
    anchors = [Boxes(torch.tensor([[-32.0, -32, 32, 32]])), Boxes(torch.tensor([[0.0, 0, 9, 9]]))]
    deltas = torch.tensor([[[1.0, 0, 0.5, 0]]], requires_grad=True)
    maps = [torch.zeros(1, 1, 3)] * 2, [deltas, torch.zeros(1, 1, 4)]
    labels = [torch.tensor([[0, 0], [3, 3]])]
    boxes = [torch.tensor([[-30.0, -28, 40, 36], [0, 0, 0, 0]])[:, None].expand(2, 2, 4)]
    quality = [torch.full((1, 1, 1), 0.4), torch.zeros(1, 1, 1)]
    losses = model.losses(anchors, maps[0], labels, maps[1], boxes, quality)
    assert_close(losses["loss_box_reg"].item(), 0.304835, atol=1e-5, rtol=0)
    assert_close(losses["loss_quality"].item(), 0.573064, atol=1e-5, rtol=0)
    losses["loss_box_reg"].backward()
    expected = torch.tensor([0.312369, -0.342308, -0.006869, -0.021678])
    assert_close(deltas.grad[0, 0], expected, atol=2e-5, rtol=0)


def plain_losses(model, maps, anchors, labels, boxes, counts):
    """One image and one level after the other, in float64."""
    logits, deltas, branch = ([x.double() for x in levels] for levels in maps)
    sums = {"loss_cls": 0.0, "loss_box_reg": 0.0, "loss_quality": 0.0}
    norms = [sum(max(int(((x[:, b] >= 0) & (x[:, b] < 3)).sum()), 1) for x in labels)
             for b in (0, 1)]  # fmt: skip
    for n in range(len(labels)):
        start = 0
        for level, size in enumerate(CELLS):
            part = slice(start, start + size)
            start += size
            cls, box = labels[n, part].unbind(1)
            factor = [2 - (c[level] - min(c)) / (max(c) - min(c) + 1e-10) for c in counts]
            one_hot = torch.nn.functional.one_hot(cls.clamp(min=0), 4)[:, :3].double()
            focal = sigmoid_focal_loss(logits[level][n], one_hot)[cls >= 0].sum()
            sums["loss_cls"] = sums["loss_cls"] + factor[0] * focal / norms[0]
            cell = ((box >= 0) & (box < 3)).nonzero()[:, 0]
            if len(cell) == 0:
                continue
            prior = anchors[level].tensor[cell].double()
            center, size_of = (prior[:, :2] + prior[:, 2:]) / 2, prior[:, 2:] - prior[:, :2]
            move, grow = deltas[level][n][cell].split(2, -1)
            center, half = center + move / 10 * size_of, size_of * (grow / 5).exp() / 2
            predicted = torch.cat([center - half, center + half], 1)
            target = boxes[n, part, 1][cell].double()
            giou = generalized_box_iou(predicted, target).diagonal()
            goal = pairwise(predicted, target).diagonal().detach()
            entropy = torch.nn.functional.binary_cross_entropy_with_logits(
                branch[level][n][cell, 0], goal, reduction="sum"
            )
            scale = factor[1] / norms[1]
            sums["loss_box_reg"] = sums["loss_box_reg"] + 2 * scale * (1 - giou).sum()
            sums["loss_quality"] = sums["loss_quality"] + scale * entropy
    return sums


@pytest.mark.parametrize("assigner", ["atss", "topk"])
def test_losses_and_gradients_equal_a_plain_computation(assigner):
    model, batch = with_offsets(build(ASSIGNER=assigner)), make_batch(boxes=3)
    batch[0]["instances"].gt_boxes = Boxes(
        torch.tensor([[5.0, 5, 60, 60], [2, 2, 126, 94], [30, 20, 50, 44]])
    )
    batch[1]["instances"] = batch[1]["instances"][:0]
    maps, anchors, labels, boxes = predictions(model, batch)
    maps = [[x.detach().requires_grad_() for x in levels] for levels in maps]
    counts = [
        [int(((x >= 0) & (x < 3)).sum()) for x in labels[..., b].split(CELLS, 1)] for b in (0, 1)
    ]
    assert all(sum(x > 0 for x in c) > 1 for c in counts) and counts[0] != counts[1], counts
    found = model.losses(anchors, maps[0], list(labels), maps[1], list(boxes), maps[2])
    expected = plain_losses(model, maps, anchors, labels, boxes, counts)
    flat = [x for levels in maps for x in levels]
    for name, value in found.items():
        assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5)
        gradients = (torch.autograd.grad(x, flat, retain_graph=True, materialize_grads=True)
                     for x in (value, expected[name]))  # fmt: skip
        for a, b in zip(*gradients, strict=True):
            assert_close(a, b, atol=1e-5, rtol=1e-4)
    again = model.losses(anchors, maps[0], list(labels), maps[1], list(boxes), maps[2])
    for name in found:
        assert_close(again[name], found[name])  # twice the counts, the same factors


def test_the_detector_is_its_parts():
    model, batch = build(), make_batch(boxes=5)
    maps, anchors, labels, boxes = predictions(model, batch)
    expected = model.losses(anchors, maps[0], list(labels), maps[1], list(boxes), maps[2])
    del model.level_counts
    for name, value in model(batch).items():
        assert_close(value, expected[name])


def test_order_of_boxes_does_not_matter():
    batch = make_batch(boxes=5)
    expected = build()(batch)
    for x in batch:
        x["instances"] = x["instances"][torch.tensor([3, 0, 4, 2, 1])]
    for name, value in build()(batch).items():
        assert_close(value, expected[name])


def test_padding_is_ignored():
    labels = predictions(build(), make_batch(sizes=((96, 128), (40, 64))))[2]
    finest = labels[1, : 12 * 16].view(12, 16, 2)
    assert bool((finest[:8, :8] >= 0).all()) and bool((labels[0] >= 0).all())
    assert bool((finest[8:] == -1).all()) and bool((finest[:, 8:] == -1).all())


@pytest.mark.parametrize("boxes", [0, 3])
@pytest.mark.parametrize("assigner", ["atss", "topk"])
def test_every_parameter_has_a_gradient(boxes, assigner):
    model = build(ASSIGNER=assigner, lively=False)
    losses = model(make_batch(boxes=boxes))
    assert all(bool(x.isfinite()) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert boxes == 0 or model.head.bbox_subnet[0].offset.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", ["", "GN"])
def test_zero_offsets_are_plain_convolutions(norm):
    """From the same seed all three begin as the same detector."""
    batch, channels = make_batch(), 32
    keys = {"NORM": norm, "lively": False, "channels": channels}
    plain, deformable = build(DEFORM=False, **keys), build(**keys)
    atss = build("ATSS", QUALITY="iou", **keys)
    names = dict(plain.named_parameters())
    assert set(names) == set(dict(atss.named_parameters()))
    added = set(dict(deformable.named_parameters())) - set(names)
    assert added == {f"head.{tower}_subnet.0.offset.{kind}" for tower in ("cls", "bbox")
                     for kind in ("weight", "bias")}  # fmt: skip
    features = [plain.backbone(torch.rand(2, 3, 96, 128))[f"p{n}"] for n in range(3, 8)]
    for maps in zip(*(model.head(features) for model in (plain, deformable, atss)), strict=True):
        for a, b, c in zip(*maps, strict=True):
            assert torch.equal(a, c)
            assert_close(a, b, atol=1e-6, rtol=1e-5)
    for name, value in deformable(batch).items():
        assert_close(value, plain(batch)[name], atol=1e-5, rtol=1e-5)


def test_a_tower_begins_with_deformable_convolution():
    model = with_offsets(build())
    x, (conv, *rest) = torch.rand(2, 8, 12, 16), model.head.bbox_subnet
    moved = deform_conv2d(x, conv.offset(x), conv.weight, conv.bias, padding=1)
    assert_close(model.head.bbox_subnet(x), torch.nn.Sequential(*rest)(moved))
    spec = build_adapter(model).spec()
    assert (spec.tower_width, spec.num_convs, spec.quality) == (8, 2, "iou")
    assert spec.box_coding == "anchor_delta"


@pytest.mark.parametrize("assigner", ["atss", "topk"])
def test_half_precision(assigner):
    model, batch = with_offsets(build(ASSIGNER=assigner)), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
    sum(losses.values()).backward()
    assert all(bool(x.isfinite()) for x in losses.values())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    for name, value in build(ASSIGNER=assigner)(batch).items():
        assert losses[name].dtype == value.dtype == torch.float32


def test_boxes_smaller_than_a_stride_and_of_no_size():
    model, batch = build(), make_batch(boxes=3)
    for x in batch:
        x["instances"].gt_boxes = Boxes(
            torch.tensor([[3.0, 3, 5, 5], [10, 10, 10, 10], [8, 8, 9, 9]])
        )
    assert all(bool(x.isfinite()) for x in model(batch).values())


def test_counts_are_kept_with_the_training_state_alone():
    model, batch = build(), make_batch()
    assert moving_averages(model) == {}
    model(batch)
    saved, before = averages_to_save(model), moving_averages(model)
    counts = before["level_counts"].clone()
    assert saved == {"level_counts": counts.tolist()} and counts.sum() > 0
    assert not any("count" in name for name in model.state_dict())
    losses = model(batch)
    assert torch.equal(before["level_counts"], counts)  # not changed in place
    other = build()
    set_moving_averages(other, saved)
    assert torch.equal(other.level_counts, counts) and other.level_counts.dtype == torch.float64
    for name, value in other(batch).items():
        assert torch.equal(value, losses[name])
    assert torch.equal(other.level_counts, model.level_counts)
    large = [[2.0**24 + 1, 0, 3, 2.0**25 + 3, 1]] * 2
    set_moving_averages(other, {"level_counts": large})
    assert averages_to_save(other) == {"level_counts": large}
    set_moving_averages(other, {})
    assert moving_averages(other) == {}


def test_an_adapter_reads_the_classification():
    model, batch = build(), make_batch(boxes=5)
    adapter, gt = build_adapter(model), [x["instances"] for x in batch]
    out = adapter(adapter.preprocess(batch, 32), gt, adapter.provides)
    _, _, labels, boxes = predictions(model, batch)
    assert not torch.equal(labels[..., 0], labels[..., 1])
    assert torch.equal(out.labels, labels[..., 0])
    assert torch.equal(out.matched_boxes, boxes[..., 0, :])
    for a, b in zip(adapter.label(out, gt), (out.labels, out.matched_boxes), strict=True):
        assert torch.equal(a, b)


def test_mistakes_are_explained():
    for key, message in (("ASSIGNER", "atss, topk"), ("COUNTERS", "separate, shared")):
        with pytest.raises(ValueError, match=rf"MODEL.DDOD.{key}: unknown 'top'.*{message}"):
            build(**{key: "top"})
    cfg = tiny_cfg("DDOD")
    cfg.MODEL.DDOD.REG_EXPONENT = 1.5
    with pytest.raises(ConfigError, match="REG_EXPONENT is 1.5: it must be a number from 0 to 1"):
        check_config(cfg)
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0]]
    with pytest.raises(ValueError, match="one anchor per cell, but MODEL.ANCHOR_GENERATOR gives"):
        build_model(cfg)
