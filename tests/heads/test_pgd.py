"""PGD on real detectors: what is compared, who learns, options and their errors."""

import pytest
import torch
from torch.testing import assert_close

from d2kd import build_adapter
from d2kd.heads import PGD
from d2kd.heads.base import check_specs
from d2kd.losses.pgd import box_tower_loss, class_tower_loss
from d2kd.testing import make_batch
from tests.helpers import detector, pair

METAS = ("RetinaNet", "FCOS", "ATSS", "DDOD", "GFL", "RepPoints")


def run(meta, batch=None, channels=8, **options):
    """Head, student output and teacher output of a real step."""
    options = {key.upper(): value for key, value in options.items()}
    _, model = pair(meta, ("PGD",), channels, {"PGD": options})
    batch = batch or make_batch()
    student = model.run_student(batch)
    return model.heads["PGD"], student, model.run_teachers(batch, student)[0]


def specs(meta="ATSS", **keys):
    spec = build_adapter(detector(meta, **keys)).spec()
    return spec, spec


@pytest.mark.parametrize("meta", METAS)
def test_terms_are_the_losses_on_the_first_blocks_with_the_weights(meta):
    head, student, teacher = run(meta, cls_exponent=0.5, delta=0.01, temperature=0.7)
    cls_maps, reg_maps, background = head.weight_maps(student, teacher)
    alpha, top_k = (0.08, 9) if meta in ("RetinaNet", "ATSS", "DDOD") else (0.04, 30)
    assert (head.alpha, head.top_k) == (alpha, top_k)
    cls, reg = 0, 0
    for level, s in enumerate(student.features):
        weight = 0
        for share, x in ((alpha, cls_maps[s]), (alpha / 2, background[s])):
            weight = weight + share * x / (x != 0).sum(1, keepdim=True).clamp(min=1)
        a, b = student.cls_taps[s][0].relu(), teacher.cls_taps[s][0].relu()
        cls += class_tower_loss(a, b, weight * (1 + 0.25 * level), 0.01, 0.7)
        a, b = student.reg_taps[s][0].relu(), teacher.reg_taps[s][0].relu()
        count = (reg_maps[s] != 0).sum().clamp(min=1)
        reg += box_tower_loss(a, b, reg_maps[s], count, 10**6, 1.6 * alpha, 0.01, 0.7)
    losses = head(student, teacher)
    assert_close(losses["cls"], cls)
    assert_close(losses["reg"], reg)
    assert float(cls) > 0 and float(reg) > 0


@pytest.mark.parametrize("meta", METAS)
def test_weight_maps_on_images_of_different_size(meta):
    batch = make_batch(sizes=((96, 128), (64, 64)))
    head, student, teacher = run(meta, batch)
    cls_maps, reg_maps, background = head.weight_maps(student, teacher)
    assert sum(float(x.sum()) for x in cls_maps.values()) > 0
    for s, weight in cls_maps.items():
        height, width = student.features[s].shape[-2:]
        cells = [x.view(2, height, width)[1] for x in (weight, reg_maps[s], background[s])]
        for x in cells:
            assert not x[-(-64 // s) :].any() and not x[:, -(-64 // s) :].any()
        assert not (weight[background[s]] != 0).any()
        assert background[s].dtype == torch.bool


def test_centers_of_the_published_detectors():
    """ATSS, DDOD and GFL predict from the corner of a cell, FCOS from its middle."""
    expected = {"ATSS": 0.0, "DDOD": 0.0, "GFL": 0.0, "FCOS": 4.0}
    for meta, offset in expected.items():
        _, _, teacher = run(meta)
        assert teacher.anchors[8].get_centers()[0].tolist() == [offset, offset]


@pytest.mark.parametrize("meta", METAS)
def test_only_trunk_and_first_blocks_learn_from_it(meta):
    student, model = pair(meta, ("PGD",), 8)
    losses = model(make_batch())
    sum(v for k, v in losses.items() if "PGD" in k).backward()
    names = {n for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    trunk = {n for n, _ in student.named_parameters() if n.startswith("backbone.")}
    towers = {f"head.{t}.0.{x}" for t in ("cls_subnet", "bbox_subnet") for x in ("weight", "bias")}
    if meta == "DDOD":
        towers |= {n for n, _ in student.named_parameters() if ".0.offset." in n}
    assert names == trunk | towers
    assert all(p.grad is None for p in model.teachers[0].detector.parameters())


def test_equal_detectors_give_zero_attention_and_feature_terms():
    for meta in METAS:
        _, model = pair(meta, ("PGD",), 8)
        model.teachers[0].detector.load_state_dict(model.student.state_dict())
        losses = model(make_batch())
        assert losses["loss_PGD_cls"].item() == losses["loss_PGD_reg"].item() == 0


def test_widths_that_differ_are_projected():
    student, model = pair("GFL", ("PGD",), 12)
    losses = model(make_batch())
    sum(losses.values()).backward()
    grads = [p.grad for p in model.heads["PGD"].parameters()]
    assert len(grads) == 4 and all(bool(g.any()) for g in grads)


def test_cross_image_weighs_every_image_by_all_images():
    batch = make_batch(sizes=((96, 128), (96, 128)))
    clean, student, teacher = run("GFL", batch)
    loss = clean(student, teacher)
    clean.cross_image = True
    crossed = clean(student, teacher)
    assert_close(crossed["reg"], loss["reg"])
    assert float(crossed["cls"]) > float(loss["cls"])
    head, student, teacher = run("GFL", batch[:1])
    alone = head(student, teacher)["cls"]
    head.cross_image = True
    assert_close(head(student, teacher)["cls"], alone)


@pytest.mark.parametrize("meta", METAS)
def test_order_of_images_does_not_matter(meta):
    batch = make_batch(sizes=((96, 128), (80, 64), (96, 96)))
    head, student, teacher = run(meta, batch)
    other, flipped, teacher_flipped = run(meta, batch[::-1])
    for name, value in head(student, teacher).items():
        assert_close(other(flipped, teacher_flipped)[name], value, rtol=1e-4, atol=0)


def test_an_image_without_difference_dilutes_the_clean_terms_only():
    """I6: fg and bg scale by N / (N + 1); with `cross_image` they do not shrink."""
    rng = torch.Generator().manual_seed(0)
    s, t = (torch.rand(2, 4, 3, 3, generator=rng) for _ in range(2))
    weight = torch.rand(2, 9, generator=rng)
    student, teacher = torch.cat([s, t[:1]]), torch.cat([t, t[:1]])
    more = torch.cat([weight, torch.rand(1, 9, generator=rng)])
    assert_close(
        class_tower_loss(student, teacher, more, 0, 1),
        class_tower_loss(s, t, weight, 0, 1) * 2 / 3,
    )
    crossed = class_tower_loss(student, teacher, more.sum(0)[None].expand(3, -1), 0, 1)
    before = class_tower_loss(s, t, weight.sum(0)[None].expand(2, -1), 0, 1) * 2 / 3
    assert float(crossed) > float(before)


def test_swapped_axes_touch_fcos_alone():
    spec = specs("FCOS")
    assert PGD(*spec, compat=("swapped_axes",)).swap_axes
    assert not PGD(*specs("GFL"), compat=("swapped_axes",)).swap_axes
    assert PGD(*specs("GFL"), compat=("cross_image", "swapped_axes")).cross_image
    clean, student, teacher = run("FCOS")
    swapped, _, _ = run("FCOS", compat=("swapped_axes",))
    a, b = (h.weight_maps(student, teacher)[2][8] for h in (clean, swapped))
    assert not torch.equal(a, b)


def test_objects_smaller_than_a_stride_and_images_without_objects():
    batch = make_batch(sizes=((96, 128), (96, 128)))
    for x in batch:
        x["instances"].gt_boxes.tensor[:, 2:] = x["instances"].gt_boxes.tensor[:, :2] + 0.5
    for case in (batch, make_batch(boxes=0), make_batch(sizes=((20, 24),))):
        student, model = pair("GFL", ("PGD",), 8)
        losses = model(case)
        assert all(bool(v.isfinite()) for v in losses.values())
        sum(losses.values()).backward()
        assert all(bool(p.grad.isfinite().all()) for p in student.parameters())


@pytest.mark.parametrize(("options", "message"), [
    ({"alpha": -0.5}, r"DISTILL.PGD.ALPHA must be at least 0, not -0.5"),
    ({"temperature": 0.0}, r"DISTILL.PGD.TEMPERATURE must be above 0"),
    ({"top_k": 0}, r"DISTILL.PGD.TOP_K must be above 0"),
    ({"cls_exponent": 1.5}, r"DISTILL.PGD.CLS_EXPONENT must be from 0 to 1, not 1.5"),
    ({"level_weights": (1.0,)}, r"LEVEL_WEIGHTS has 1 entries, but the detectors have 5 levels"),
    ({"compat": ("B1",)}, r"DISTILL.PGD.COMPAT.*'B1'.*cross_image"),
])  # fmt: skip
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PGD(*specs(), **options)


def test_detectors_without_towers_or_with_other_classes():
    with pytest.raises(ValueError, match="PGD compares the first block of the towers"):
        PGD(*specs(MODEL__ATSS__NUM_CONVS=0))
    student, _ = specs("GFL", MODEL__GFL__NUM_CLASSES=2)
    with pytest.raises(ValueError, match="student has 2 classes and the teacher 3"):
        check_specs("PGD", PGD.requires, student, specs("GFL")[1])
