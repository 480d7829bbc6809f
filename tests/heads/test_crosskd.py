"""CrossKD: identity, where gradient goes, regression losses by hand, explained mistakes."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from d2kd import Teacher, build_adapter
from d2kd.adapters import DetectorSpec
from d2kd.heads import CrossKD
from d2kd.losses import softened_kl
from d2kd.testing import make_batch
from tests.helpers import detector, distill
from tests.losses.test_softened_kl import bins

KINDS = ["RetinaNet", "FCOS", "ATSS", "DDOD", "GFL", "RepPoints"]


def build(meta, convs=4, **keys):
    names = {f"MODEL__{m.upper()}__NUM_CONVS": convs for m in KINDS}
    return detector(meta, **names, **keys)


def distiller(meta, **options):
    """A student and a teacher of other weights, livelier than at the start."""
    student, teacher = build(meta), build(meta, seed=1)
    with torch.no_grad():
        for model in (student, teacher):
            for parameter in model.head.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    model = distill(student, [teacher], ("CrossKD",)).train()
    for key, value in options.items():
        setattr(model.heads["CrossKD"], key, value)
    return student, teacher, model


@pytest.mark.parametrize("meta", KINDS)
def test_equal_detectors_give_zero(meta):
    student = build(meta)
    with torch.no_grad():
        for parameter in student.head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model = distill(student, [copy.deepcopy(student)], ("CrossKD",)).train()
    losses = {k: v for k, v in model(make_batch()).items() if "CrossKD" in k}
    assert len(losses) == (3 if meta in ("ATSS", "DDOD") else 2)
    for name, value in losses.items():
        if name.endswith("quality"):
            continue  # binary cross-entropy with soft targets is least, not zero
        assert_close(value, torch.zeros(()), atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("meta", KINDS)
def test_gradient_reaches_the_early_blocks_only_and_never_the_teacher(meta):
    student, teacher, model = distiller(meta)
    block = model.heads["CrossKD"].block
    assert block == (2 if meta == "FCOS" else 3)
    losses = model(make_batch(boxes=5))
    sum(v for k, v in losses.items() if "CrossKD" in k).backward()
    for tower in (student.head.cls_subnet, student.head.bbox_subnet):
        convs = [layer for layer in tower if isinstance(layer, torch.nn.Conv2d)]
        for index, conv in enumerate(convs):
            reached = conv.weight.grad is not None and bool(conv.weight.grad.any())
            assert reached == (index < block)
    assert student.head.cls_score.weight.grad is None
    assert student.head.bbox_pred.weight.grad is None
    assert bool(student.backbone.stem.weight.grad.any())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("meta", KINDS)
@pytest.mark.parametrize("boxes", [0, 4])
def test_every_parameter_is_trained_and_losses_are_finite(meta, boxes):
    student, _, model = distiller(meta)
    losses = model(make_batch(boxes=boxes))
    assert all(bool(v.isfinite()) for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in student.parameters())


def test_block_zero_starts_from_the_fpn_and_uses_the_teachers_scale():
    student, teacher, model = distiller("GFL", block=0)
    torch.nn.init.constant_(teacher.head.scales[0].scale, 3.0)
    losses = model(make_batch())
    sum(v for k, v in losses.items() if "CrossKD" in k).backward()
    assert student.head.cls_subnet[0].weight.grad is None
    assert bool(student.backbone.stem.weight.grad.any())


def head_for(meta):
    spec = build_adapter(build(meta)).spec()
    return CrossKD(spec, spec)


def test_distribution_loss_by_hand():
    x, t = (logits.detach() for logits in bins())
    second = torch.zeros(17, dtype=torch.float64)
    second[10] = 1
    crossed = SimpleNamespace(deltas={8: torch.stack([x, x]).repeat(1, 4)[None]})
    teacher = SimpleNamespace(deltas={8: torch.stack([t, second]).repeat(1, 4)[None]})
    r = torch.tensor([[0.8, 0.1]], dtype=torch.float64)
    for factor in (1, 2):
        loss = head_for("GFL")._box_loss(crossed, teacher, r * factor, torch.tensor(3.0))
        assert_close(4 * loss.item(), 5.420036, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("meta", "expected"), [("ATSS", 0.555556), ("FCOS", 0.810930)])
def test_box_losses_of_nested_boxes(meta, expected):
    """The losses are divided by the positives, so doubling the weight doubles them."""
    decoders = [SimpleNamespace(decode=lambda _, b=box: {8: torch.tensor([[box_of(b)]])})
                for box in (2.0, 3.0)]  # fmt: skip
    crossed, teacher = (SimpleNamespace(adapter=d) for d in decoders)
    for factor in (1, 2):
        weight = torch.full((1, 1), 0.5 * factor)
        loss = head_for(meta)._box_loss(crossed, teacher, weight, torch.tensor(4.0))
        assert_close(loss.item(), 0.5 * factor * expected / 4, atol=1e-6, rtol=0)


def box_of(half):
    return [-half, -half, half, half]


def test_distribution_loss_of_the_head():
    """The head's own weighting, on its own tensors."""
    _, teacher, model = distiller("GFL")
    head, batch = model.heads["CrossKD"], make_batch()
    student = model.run_student(batch)
    out = Teacher(teacher)(batch, model.divisor, "BGR", head.requires)
    crossed, losses = head._cross(student, out), head(student, out)
    b_x, b_t, z_t = (
        torch.cat(list(x.values()), 1) for x in (crossed.deltas, out.deltas, out.logits)
    )
    r = z_t.sigmoid().amax(-1) * torch.cat(list(student.valid.values()), 1)
    kl = softened_kl(b_x.unflatten(-1, (4, -1)), b_t.unflatten(-1, (4, -1))).mean(-1)
    assert_close(losses["reg"], 4 * (kl * r).sum() / r.sum())
    assert float(losses["reg"]) > 0 and float(losses["cls"]) > 0


def test_boxes_without_area_are_finite():
    """FCOS's ReLU makes distances of zero."""
    student, teacher, model = distiller("FCOS")
    for model_ in (student, teacher):
        torch.nn.init.constant_(model_.head.bbox_pred.bias, -100)
    losses = model(make_batch())
    assert all(math.isfinite(float(v)) for v in losses.values())
    assert float(losses["loss_CrossKD_reg"]) == 0
    sum(losses.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in student.parameters())


@pytest.mark.parametrize("convs", [(0, 2), (2, 0), (0, 0)])
def test_towers_without_blocks_cross_at_the_pyramid(convs):
    student = build("GFL", convs[0])
    teacher = build("GFL", convs[1], channels=12, seed=1)
    options = {"CrossKD": {"PROJECT": True}}
    model = distill(student, [teacher], ("CrossKD",), options=options).train()
    losses = model(make_batch())
    assert losses["loss_CrossKD_cls"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_projection_of_other_widths():
    student, teacher = build("GFL"), build("GFL", channels=16)
    specs = build_adapter(student).spec(), build_adapter(teacher).spec()
    with pytest.raises(ValueError, match="student has 8 channels and the teacher 16.*PROJECT"):
        CrossKD(*specs)
    assert len(CrossKD(*specs, project=True).project) == 2


def test_shorter_towers_are_used_whole():
    student, teacher = build("GFL"), build("GFL")
    specs = [build_adapter(x).spec() for x in (student, teacher)]
    shorter = dataclasses.replace(specs[0], num_convs=2)
    assert CrossKD(*specs).block == 3 and CrossKD(shorter, specs[1]).block == 2


@pytest.mark.parametrize(("student", "teacher", "options", "match"), [
    ({"num_convs": 2}, {}, {"block": 3}, "BLOCK is 3, but the student.s towers have 2"),
    ({}, {"box_coding": "anchor_delta"}, {}, "coded alike"),
    ({}, {"reg_max": 8}, {}, "bins to 16.*bins to 8"),
    ({}, {}, {"cls_weight": -2.0}, "DISTILL.CrossKD.CLS_WEIGHT must be at least 0"),
    ({}, {}, {"quality_weight": -1.0}, "QUALITY_WEIGHT"), ({}, {}, {"block": -3}, "BLOCK"),
])  # fmt: skip
def test_mistakes_are_explained(student, teacher, options, match):
    base = {
        "name": "GFL", "features": {}, "num_classes": 3, "tower_width": 8, "num_convs": 4,
        "reg_max": 16, "box_coding": "distribution",
    }  # fmt: skip
    specs = (DetectorSpec(**{**base, **x}) for x in (student, teacher))
    with pytest.raises(ValueError, match=match):
        CrossKD(*specs, **options)
