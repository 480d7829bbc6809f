"""AutoAssign: numbers worked out by hand, and its losses against a plain loop over boxes."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close
from torchvision.ops import box_iou

from d2kd.detectors.center_prior import CenterPrior, Pairs
from d2kd.detectors.weighed_cells import weighed_losses
from d2kd.losses import box_iou_loss
from d2kd.losses.auto_assign import bag_loss, joint_negative_loss, negative_factors, prior_loss
from d2kd.testing import make_batch, tiny_cfg

F64 = torch.float64


def tensor(*values, dtype=F64):
    return torch.tensor(values, dtype=dtype)


def near(value, expected, atol=6e-7):
    expected = torch.as_tensor(expected, dtype=F64)
    assert_close(value.detach().to(F64), expected, atol=atol, rtol=0)


def prior_of(mean=(0.0, 0.0), sigma=(1.0, 1.0)):
    module = CenterPrior(1).double()
    with torch.no_grad():
        module.mean.copy_(tensor(*mean)), module.sigma.copy_(tensor(*sigma))
    return module


@pytest.mark.parametrize(("mean", "sigma", "expected"), [
    ((0, 0), (1, 1), 0.882497), ((0.5, 0), (1, 1), 0.606531), ((0, 0), (2, 1), 0.969233),
])  # fmt: skip
def test_prior_values(mean, sigma, expected):
    box = tensor(10.0, 6, 30, 26)  # its center is (20, 16)
    found = prior_of(mean, sigma)(tensor(16.0, 16), tensor(8.0).squeeze(), box, torch.tensor(0))
    near(found, expected)


def test_prior_of_a_class_that_is_none_is_that_of_the_mean_class():
    module = CenterPrior(2)
    with torch.no_grad():
        module.mean[0] = 1.0
    place = torch.tensor([16.0, 16]), torch.tensor(8.0), torch.tensor([10.0, 6, 30, 26])
    found = module(*place, torch.tensor([2, 9]))
    expected = math.exp(-((-0.5 - 0.5) ** 2 + 0.5**2) / 2)
    assert_close(found, torch.full((2,), expected))


@pytest.mark.parametrize(("prior", "expected"), [((1, 1), 0.169609), ((1, 0.5), 0.150532)])
def test_bag_of_two_cells(prior, expected):
    confidence = tensor(0.6, 0.2).requires_grad_()
    loss = 0.25 * bag_loss(confidence, tensor(*map(float, prior)), torch.zeros(2).long(), 1).sum()
    near(loss, expected)
    if prior == (1, 1):
        near(torch.exp(-loss / 0.25), 0.507410)
        near(torch.autograd.grad(loss, confidence)[0], [-0.483829, -0.008870])


def test_a_box_without_a_cell_adds_a_constant():
    confidence = tensor(0.6, 0.2).requires_grad_()
    loss = bag_loss(confidence, tensor(1.0, 1.0), torch.zeros(2).long(), 2)
    near(0.25 * loss, [0.169609, 25])
    assert bag_loss(confidence[:0], tensor(), torch.zeros(0).long(), 0).shape == (0,)


def test_bags_of_cells_that_predict_nothing_have_finite_gradients():
    confidence = torch.zeros(3, requires_grad=True)
    for prior in (1.0, 0.0):
        loss = bag_loss(confidence, torch.full((3,), prior), torch.tensor([0, 0, 1]), 2).sum()
        assert loss == 200
        assert bool(torch.autograd.grad(loss, confidence)[0].isfinite().all())


def test_exponent_of_the_box_term():
    """GIoU 1, 0.6 and -1."""
    near((-5 * (1 - tensor(1.0, 0.6, -1.0))).exp(), [1, 0.135335, 4.5400e-5])


@pytest.mark.parametrize(("overlap", "outside", "expected"), [
    ((0.8, 0.5, 0.0), 1, 0.057829), ((0.3,), 0, 0.0), ((0.3, 0.3, 0.3), 1, 0.024076),
    ((), 1, 0.024076),
])  # fmt: skip
def test_negative_values(overlap, outside, expected):
    """Cells of one box, and one outside; J is 0.3."""
    factors = negative_factors(tensor(*overlap), torch.zeros(len(overlap)).long(), 1)
    if len(overlap) == 3 and overlap[0] == 0.8:
        near(factors, [0, 0.75, 1])
    factors = torch.cat([factors, torch.ones(outside, dtype=F64)])[:, None]
    logit = torch.full_like(factors, math.log(0.6 / 0.4)).requires_grad_()
    loss = 0.75 * joint_negative_loss(logit, torch.zeros_like(logit), factors).sum()  # J = 0.6 / 2
    near(loss, expected)
    if not overlap:
        slope = torch.autograd.grad(loss, logit)[0] / (0.3 * (1 - 0.6))  # dz to dJ
        near(slope, [[0.256932]])


def test_prior_loss_values():
    module = prior_of()
    points, box = tensor([16.0, 16], [24, 16]), tensor([10.0, 6, 30, 26])
    prior = module(points, tensor(8.0, 8), box, torch.zeros(2).long())
    near(prior, [0.882497, 0.882497])
    loss = 0.75 * prior_loss(prior, torch.zeros(2).long(), tensor(1.0)).mean()
    near(loss, 0.424931)
    mean, sigma = torch.autograd.grad(loss, [module.mean, module.sigma], retain_graph=True)
    near(mean, [[0, 0]])
    near(sigma, [[-0.106233, 0]])
    loss = 0.25 * bag_loss(tensor(0.6, 0.2), prior, torch.zeros(2).long(), 1).sum()
    near(torch.autograd.grad(loss, module.mean)[0], [[0.035059, 0]])


def test_an_image_without_a_cell_in_a_box_has_no_prior_loss():
    prior = tensor(0.5, 0.5).requires_grad_()
    loss = prior_loss(prior, torch.tensor([0, 0]), tensor(1.0, 3.0, 0.0))
    near(loss, [1, 0, 0])
    assert bool(torch.autograd.grad(loss.sum(), prior)[0].isfinite().all())


def test_gradients():
    rng = torch.Generator().manual_seed(0)
    z, o = (torch.randn(2, 3, n, dtype=F64, generator=rng).requires_grad_() for n in (4, 1))
    factors = torch.rand(2, 3, 4, dtype=F64, generator=rng)
    assert torch.autograd.gradcheck(lambda z, o: joint_negative_loss(z, o, factors), (z, o))
    confidence, prior = (torch.rand(5, dtype=F64, generator=rng).requires_grad_() for _ in "ab")
    box = torch.tensor([0, 0, 2, 2, 2])
    assert torch.autograd.gradcheck(lambda p, g: bag_loss(p, g, box, 3), (confidence, prior))
    assert torch.autograd.gradcheck(lambda g: prior_loss(g, box, tensor(1.0, 1, 1)), (prior,))


def test_negative_loss_of_certain_and_of_tiny_probabilities():
    logit = torch.tensor([[100.0], [-100.0], [-20.0]], requires_grad=True)
    loss = joint_negative_loss(logit, torch.full((3, 1), 100.0), torch.ones(3, 1))
    assert 15 < loss[0] < 100 and loss[1] == 0 and loss[2] > 0
    assert bool(torch.autograd.grad(loss.sum(), logit)[0].isfinite().all())


def build(seed=0, **keys):
    cfg = tiny_cfg("AutoAssign")
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.AUTOASSIGN.{key}", value])
    torch.manual_seed(seed)
    model = build_model(cfg).train()
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.5)
    torch.nn.init.constant_(model.head.cls_score.bias, -1)
    torch.nn.init.normal_(model.head.bbox_pred.weight, std=0.05)
    torch.nn.init.normal_(model.center_prior.mean, std=0.2)
    torch.nn.init.uniform_(model.center_prior.sigma, 0.7, 1.3)
    return model


def predictions(model, batch):
    """Flat predictions (N, R, D) and the points (R, 2) and strides (R,) of cells."""
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    features = [features[name] for name in model.head_in_features]
    maps = model._transpose_dense_predictions(model.head(features), model.prediction_dims)
    flat = [torch.cat(x, 1) for x in maps]
    shapes = zip((x.shape[-2:] for x in features), model.strides, strict=True)
    cells = [(x * s, y * s, s) for (h, w), s in shapes for y in range(h) for x in range(w)]
    cells = torch.tensor(cells, dtype=torch.float32)
    return *flat, cells[:, :2], cells[:, 2]


def plain_losses(model, batch):
    """Box by box, over all cells."""
    logits, deltas, objectness, points, strides = predictions(model, batch)
    joint = logits.sigmoid() * objectness.sigmoid()
    sides = deltas.relu() * strides[:, None]
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
    positive, negative, center, num_boxes, total = 0, 0, [], 0, 0
    for p, box, x in zip(joint, boxes, batch, strict=True):
        gt, classes = x["instances"].gt_boxes.tensor, x["instances"].gt_classes
        factors, priors = torch.ones_like(p), 0
        best = box_iou(box, gt).amax(1).detach() if len(gt) else None
        for b, c in zip(gt, classes, strict=True):
            inside = ((points > b[:2]) & (points < b[2:])).all(1)
            way = (points - (b[:2] + b[2:]) / 2) / strides[:, None] - model.center_prior.mean[c]
            prior = (-way.square() / (2 * model.center_prior.sigma[c].square())).exp().prod(1)
            prior = prior * inside
            confidence = p[:, c] * (-5 * box_iou_loss(box, b.expand_as(box))).exp()
            weight = (3 * confidence).exp() * prior
            bag = (weight / weight.sum().clamp(min=1e-12) * confidence).sum()
            positive = positive + F.binary_cross_entropy(bag, torch.ones_like(bag))
            priors, num_boxes = priors + prior.sum(), num_boxes + 1
            if inside.any():
                t = 1 / (1 - best[inside])
                t = (t - t.min() + 1e-12) / (t.max() - t.min() + 1e-12)
                factors[inside, c] = torch.minimum(factors[inside, c], 1 - t)
        a, zero = p * factors, torch.zeros_like(p)
        negative = negative + (a**2 * F.binary_cross_entropy(a, zero, reduction="none")).sum()
        center.append(len(gt) / priors.clamp(min=1e-12) if len(gt) else torch.zeros(()))
        total = total + torch.as_tensor(priors).detach()
    return {
        "loss_pos": 0.25 * positive / max(num_boxes, 1),
        "loss_neg": 0.75 * negative / max(total, torch.ones(())),
        "loss_center": 0.75 * torch.stack(center).mean(),
    }


def batch_of(*counts):
    sizes = ((96, 128), (80, 64), (96, 96))
    return [make_batch(sizes[i : i + 1], boxes=n, seed=i)[0] for i, n in enumerate(counts)]


@pytest.mark.parametrize("counts", [(5, 3), (4, 0, 9)])
def test_losses_and_gradients_equal_a_plain_computation(counts):
    model, batch = build(), batch_of(*counts)
    found, expected = model(batch), plain_losses(model, batch)
    assert list(found) == list(expected)
    parameters = list(model.parameters())
    for name, value in expected.items():
        assert_close(found[name], value, atol=1e-6, rtol=2e-5)
        mine, theirs = (
            torch.autograd.grad(x, parameters, allow_unused=True, retain_graph=True)
            for x in (found[name], value)
        )
        for a, b in zip(mine, theirs, strict=True):
            a, b = (torch.zeros(()) if x is None else x for x in (a, b))
            assert_close(a + 0 * b, b + 0 * a, atol=2e-5, rtol=2e-4)


def test_what_the_losses_train():
    """The positive one everything, the negative one no boxes and no prior, the last the prior."""
    model = build()
    losses = model(make_batch())
    parts = {
        "class": model.head.cls_score.weight, "objectness": model.head.ctrness.weight,
        "box": model.head.bbox_pred.weight, "mean": model.center_prior.mean,
        "sigma": model.center_prior.sigma,
    }  # fmt: skip
    trained = {}
    for name, loss in losses.items():
        options = {"allow_unused": True, "retain_graph": True}
        found = torch.autograd.grad(loss, list(parts.values()), **options)
        pairs = zip(parts, found, strict=True)
        trained[name] = {k for k, x in pairs if x is not None and bool(x.abs().sum() > 0)}
    assert trained == {
        "loss_pos": set(parts), "loss_neg": {"class", "objectness"},
        "loss_center": {"mean", "sigma"},
    }  # fmt: skip


@pytest.mark.parametrize("counts", [(0, 0), (3, 0)])
def test_every_parameter_has_a_gradient(counts):
    model = build()
    losses = model(batch_of(*counts))
    assert all(bool(x.isfinite()) for x in losses.values())
    if counts == (0, 0):
        assert losses["loss_pos"] == losses["loss_center"] == 0 < losses["loss_neg"]
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_the_order_of_boxes_does_not_matter():
    model, batch = build(), make_batch(boxes=6)
    expected = model(batch)
    for x in batch:
        x["instances"] = x["instances"][torch.tensor([3, 0, 5, 1, 4, 2])]
    for name, value in model(batch).items():
        assert_close(value, expected[name])


def with_boxes(boxes, classes):
    x = make_batch(sizes=((96, 128),))[0]
    target = Instances((96, 128))
    target.gt_boxes, target.gt_classes = Boxes(torch.tensor(boxes)), torch.tensor(classes)
    return [{**x, "instances": target}]


def test_of_two_boxes_of_one_class_the_smaller_factor_counts():
    """Cell 1 is the worse of two in one box (factor 1) and the only one of the other (0)."""
    one = torch.tensor([0.0, 0, 16, 16])
    logits, objectness = torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)
    predicted = torch.tensor([[[0.0, 0, 16, 16], [0.0, 0, 16, 14]]])
    values = []
    for order in ([0, 0, 1], [1, 1, 0]):
        pairs = Pairs(
            torch.stack([one, one]), torch.zeros(2).long(), torch.zeros(2).long(), [2],
            torch.tensor(order), torch.tensor([0, 1, 1]), torch.ones(3),
        )  # fmt: skip
        values.append(weighed_losses(logits, predicted, objectness, pairs)[1])
    assert values[0] == values[1] == 0


def test_boxes_without_a_cell():
    small = [[1.0, 1, 6, 7], [9.0, 9, 15, 15]]
    batch = with_boxes([*small, [20.0, 20, 60, 60]], [0, 1, 2])
    one = build()(with_boxes([[20.0, 20, 60, 60]], [2]))
    all_three, skipped = build()(batch), build(SKIP_EMPTY=True)(batch)
    assert_close(all_three["loss_pos"] * 3, one["loss_pos"] + 50)
    assert_close(skipped["loss_pos"] * 3, one["loss_pos"])
    assert build()(with_boxes(small, [0, 1]))["loss_center"] == 0


def test_forced_cells():
    """A box between the points gets the nearest ones, others keep theirs."""
    model = build(FORCE_TOP_K=9)
    model.center_prior.load_state_dict(CenterPrior(3).state_dict())
    features = [torch.zeros(1, 1, 96 // s, 128 // s) for s in (8, 16, 32)]
    model.anchor_generator.strides = model.anchor_generator.strides[:3]
    anchors = torch.cat([x.tensor for x in model.anchor_generator(features)])
    model.strides = model.strides[:3]
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    strides = torch.tensor([8.0] * 192 + [16.0] * 48 + [32.0] * 12)
    objects = [with_boxes([[17.0, 17, 23, 23], [30.0, 30, 34, 34]], [0, 0])[0]["instances"]]
    plain = model.center_prior.pairs(points, strides, objects)
    forced = model.center_prior.pairs(points, strides, objects, 9)
    assert plain.box.tolist() == [1, 1, 1]  # (32, 32) of three levels
    assert forced.box.tolist() == [0] * 9 + [1] * 3
    distance = (points - 20).square().sum(1) / strides.square()
    assert distance[forced.row[:9]].max() <= distance.sort().values[8]
    assert bool((forced.prior > 0).all())


def test_float32_in_mixed_precision():
    model, batch = build(), make_batch()
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch)
    for name, value in mixed.items():
        assert value.dtype == torch.float32 and bool(value.isfinite())
        assert_close(value, exact[name], atol=0.1, rtol=0.1)
    sum(mixed.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_hard_labels():
    """A cell in two boxes takes the one whose center is nearer, of each level; padding is -1."""
    model = build()
    model.center_prior.load_state_dict(CenterPrior(3).state_dict())
    boxes = [[10.0, 10, 50, 50], [30.0, 10, 70, 50]]
    batch = with_boxes(boxes, [0, 2]) + make_batch(sizes=((40, 64),), boxes=0)
    images = model.preprocess_image(batch)
    features = [model.backbone(images.tensor)[name] for name in model.head_in_features]
    anchors = model.anchor_generator(features)
    labels, matched = model.label_anchors(anchors, [x["instances"] for x in batch])
    finest = labels[0][: 12 * 16].view(12, 16)
    assert finest[4].tolist() == [3, 3, 0, 0, 0, 0, 2, 2, 2] + [3] * 7  # (40, y) lies between
    assert finest[1].tolist() == [3] * 16
    assert_close(matched[0][:192].view(12, 16, 4)[4, 6], torch.tensor(boxes[1]))
    finest = labels[1][: 12 * 16].view(12, 16)
    assert bool((finest[:8, :8] == 3).all()) and bool((finest[8:] == -1).all())
    for x in batch:
        x["instances"].gt_classes = x["instances"].gt_classes + 100
    again, _ = model.label_anchors(anchors, [x["instances"] for x in batch])
    assert torch.equal(torch.where(again[0] >= 100, again[0] - 100, again[0]), labels[0])


@pytest.mark.parametrize("score", ["product", "joint"])
def test_inference_equals_a_plain_computation(score):
    model, batch = build(SCORE=score), make_batch(sizes=((96, 128),))
    torch.nn.init.zeros_(model.head.cls_score.bias)
    torch.nn.init.normal_(model.head.cls_score.weight, std=5.0)
    torch.nn.init.normal_(model.head.ctrness.weight, std=1.0)
    model.test_topk_candidates, model.max_detections_per_image = 40, 20
    with torch.no_grad():
        found = model.eval()(batch)[0]["instances"]
        logits, deltas, objectness, points, strides = (
            x[0] if x.dim() == 3 else x for x in predictions(model, batch)
        )
    sides = deltas.relu() * strides[:, None]
    boxes = torch.cat([points - sides[:, :2], points + sides[:, 2:]], 1)
    limits = torch.tensor([128.0, 96, 128, 96])
    final = logits.sigmoid() * objectness.sigmoid()
    chosen = final if score == "joint" else logits.sigmoid()
    rows = []
    for stride in model.strides:
        cells = (strides == stride).nonzero()[:, 0]
        values, order = chosen[cells].flatten().sort(descending=True, stable=True)
        order = order[:40][values[:40] > 0.05]
        rows.append(torch.stack([cells[order // 3], order % 3], 1))
    cell, label = torch.cat(rows).unbind(1)
    box, value = boxes[cell], final[cell, label]
    clipped = box.clamp(min=0).minimum(limits)
    from detectron2.layers import batched_nms

    keep = batched_nms(box if score == "joint" else clipped, value, label, 0.6)[:20]
    there = keep[((clipped[:, 2:] - clipped[:, :2]) > 0).all(1)[keep]]
    assert len(there) > 10
    assert_close(found.scores, value[there])
    assert_close(found.pred_boxes.tensor, clipped[there], atol=1e-4, rtol=1e-5)
    assert torch.equal(found.pred_classes, label[there])


def test_the_start():
    """Class probability 0.02, boxes of four strides to each side."""
    cfg = tiny_cfg("AutoAssign")
    model = build_model(cfg)
    assert_close(model.head.cls_score.bias, torch.full((3,), -math.log(49)))
    assert bool((model.head.bbox_pred.bias == 4).all())
    assert all(
        layer.bias is not None for layer in model.head.cls_subnet if hasattr(layer, "kernel_size")
    )
    assert bool((model.center_prior.mean == 0).all()) and bool(
        (model.center_prior.sigma == 1).all()
    )
    anchors = model.anchor_generator([torch.zeros(1, 1, 2, 2)] * 5)
    assert anchors[1].get_centers().tolist() == [[0, 0], [16, 0], [0, 16], [16, 16]]


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match=r"MODEL.AUTOASSIGN.SCORE: unknown 'sum'.*joint, product"):
        build(SCORE="sum")
