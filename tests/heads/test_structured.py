"""Structured KD as a head: published totals, presets, options, modules, every family."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.heads import StructuredKD
from d2kd.losses import channel_mask, masked_distance, spatial_mask
from d2kd.testing import make_batch
from tests.helpers import (
    detector,
    distill,
    feature_output,
    feature_spec,
    make_identity,
    output_of,
    pair,
)
from tests.losses.test_attention import STUDENT, TEACHER, near

DENSE = {"num_anchors": 1}
TERMS = ["feat", "channel", "spatial", "non_local"]
FPN = {s: 256 for s in (4, 8, 16, 32, 64)}


def toy(maps=(STUDENT, TEACHER), **options):
    """The head's terms for maps at one level, all adapters the identity."""
    spec = feature_spec({8: 2})
    head = make_identity(StructuredKD(spec, spec, **options).double())
    return head(*(output_of({8: x}) for x in maps))


@pytest.mark.parametrize(("preset", "terms", "total"), [
    ("two_stage", [2.500300e-4, 3.0e-3, 6.633250e-3, 1.852026e-4], 0.0100684822),
    ("one_stage", [1.650669e-3, 1.8e-2, 3.979950e-2, 1.111216e-3], 0.0605613819),
])  # fmt: skip
def test_totals(preset, terms, total):
    losses = toy(preset=preset)
    assert list(losses) == TERMS
    near(torch.stack(list(losses.values())), terms, atol=1e-8)
    near(sum(losses.values()), total, atol=1e-10)


def test_equal_maps_give_zero_and_gradient_zero():
    s = TEACHER.clone().requires_grad_()
    losses = toy((s, TEACHER), preset="one_stage")
    sum(losses.values()).backward()
    assert all(v.item() == 0 for v in losses.values())
    assert torch.equal(s.grad, torch.zeros_like(s))


def test_images_per_gpu():
    both = [torch.cat([x, x]) for x in (STUDENT, TEACHER)]
    two, one = toy(both), toy()
    fixed = [toy(maps, ref_ims_per_gpu=2) for maps in (both, (STUDENT, TEACHER))]
    for name in TERMS:
        assert_close(two[name], 2**0.5 * one[name])
        assert_close(fixed[0][name], two[name])
        assert_close(fixed[1][name], two[name])


def test_options_change_what_they_name():
    base = toy(preset="two_stage")
    changed = {
        "feat": [{"mask_fuse": "sum"}, {"channel_mask": 1}, {"temperature": 0.1},
                 {"feat_weight": 1e-4}],
        "channel": [{"at_pool": "abs"}, {"attention_weight": 1.0}],
        "spatial": [{"attention_weight": 1.0}],
        "non_local": [{"non_local_weight": 1.0}],
    }  # fmt: skip
    for name, options in changed.items():
        for option in options:
            assert toy(preset="two_stage", **option)[name] != base[name], option
    near(toy(preset="two_stage", mask_fuse="sum")["feat"] / 7e-5, 4.214885)
    near(toy(preset="two_stage", channel_mask=1)["feat"] / 7e-5, 3.697130)
    near(toy(preset="one_stage", channel_mask=0)["feat"] / 4.2e-4, 3.471756)
    near(toy(preset="two_stage", at_pool="abs")["channel"] / 4e-3, 0.25)


@pytest.mark.parametrize(("student", "teacher", "keys", "expected"), [
    ((4, 8), (4, 8), {}, "two_stage"), ((8, 16), (8, 16), DENSE, "one_stage"),
    ((4, 8), (8, 16), {}, "two_stage"), ((8, 16), (4, 8), DENSE, "one_stage"),
    ((4, 8), (4, 8), DENSE, "two_stage"),
])  # fmt: skip
def test_automatic_preset(student, teacher, keys, expected):
    specs = feature_spec(dict.fromkeys(student, 4), **keys), feature_spec(dict.fromkeys(teacher, 4))
    assert StructuredKD(*specs).values == StructuredKD(*specs, preset=expected).values


def test_paper_presets():
    spec = feature_spec({8: 4})
    one, two = (StructuredKD(spec, spec, preset=f"{n}_stage_paper").values for n in ("one", "two"))
    assert one == (4e-4, 2e-2, 4e-4, 0.5, True) and two == (7e-5, 4e-3, 7e-5, 0.1, True)


def test_parameters_of_the_released_setting():
    head = StructuredKD(feature_spec(FPN), feature_spec(FPN))
    parts = {name: sum(p.numel() for p in child.parameters())
             for name, child in head.named_children()}  # fmt: skip
    non_local = parts["non_local_student"] + parts["non_local_teacher"]
    assert (non_local, sum(parts.values())) == (1_059_328, 2_046_258)
    modules = list(head.non_local_teacher.values())
    assert [m.theta.out_channels for m in modules] == [64, 64, 128, 128, 128]
    assert [m.pool for m in modules] == [8, 4, 2, 2, 2]


def test_widths_and_windows_follow_the_level_index():
    widths = {8: 32, 16: 32, 32: 32}
    head = StructuredKD(feature_spec(widths), feature_spec({s: 512 for s in widths}))
    sides = (head.non_local_student, head.non_local_teacher)
    assert [[m.theta.out_channels for m in x.values()] for x in sides] == [
        [16, 16, 16], [64, 64, 256],
    ]  # fmt: skip
    assert [m.pool for m in sides[0].values()] == [8, 4, 2]


def test_different_widths_use_the_teachers_channel_mask():
    head = StructuredKD(feature_spec({8: 4}, **DENSE), feature_spec({8: 6}))
    s, t = feature_output({8: 4}, 0), feature_output({8: 6}, 1)
    losses = head(s, t)
    x, y = s.features[8], t.features[8]
    masks = [spatial_mask([y, x], 0.1), channel_mask([y], 0.1)]
    assert_close(losses["feat"], 4.2e-4 * masked_distance(head.project["8"](x), y, masks))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_gradient_reaches_all_modules_but_not_the_teacher():
    spec = feature_spec({8: 4, 16: 4}, **DENSE)
    head = StructuredKD(spec, spec)
    s, t = feature_output({8: 4, 16: 4}, 0), feature_output({8: 4, 16: 4}, 1)
    for x in (*s.features.values(), *t.features.values()):
        x.requires_grad_()
    sum(head(s, t).values()).backward()
    assert all(x.grad is None for x in t.features.values())
    assert all(x.grad.abs().sum() > 0 for x in s.features.values())
    for name, parameter in head.named_parameters():
        inner = "non_local_" in name and "adapt" not in name and "norm" not in name
        assert (parameter.grad.abs().sum() == 0) == inner, name


@pytest.mark.parametrize(("weight", "terms"), [
    ("feat_weight", ["channel", "spatial", "non_local"]),
    ("attention_weight", ["feat", "non_local"]),
    ("non_local_weight", ["feat", "channel", "spatial"]),
])  # fmt: skip
def test_a_term_of_weight_zero_has_no_modules(weight, terms):
    spec = feature_spec({8: 4, 16: 4})
    head = StructuredKD(spec, spec, **{weight: 0.0})
    s, t = feature_output({8: 4, 16: 4}, 0), feature_output({8: 4, 16: 4}, 1)
    losses = head(s, t)
    assert list(losses) == terms
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert len(list(head.parameters())) < len(list(StructuredKD(spec, spec).parameters()))
    assert head.maps(s, t)["difference"]


def test_maps():
    spec = feature_spec({8: 2})
    head = make_identity(StructuredKD(spec, spec, preset="two_stage").double())
    maps = head.maps(*(output_of({8: x}) for x in (STUDENT, TEACHER)))
    assert list(maps) == ["difference", "spatial attention (teacher)",
                          "spatial attention (student)", "spatial attention (fused)"]  # fmt: skip
    near(maps["difference"][8], [2.5**0.5, 0.5**0.5, 0, 0.5**0.5])
    near(maps["spatial attention (fused)"][8], [2.234135, 0.426941, 0.178376, 1.160547])
    mean = sum(maps[f"spatial attention ({side})"][8] for side in ("teacher", "student")) / 2
    assert_close(mean, maps["spatial attention (fused)"][8])
    near(maps["spatial attention (teacher)"][8][0, 0, 0], 3.681823)


@pytest.mark.parametrize(("option", "message"), [
    ({"preset": "two-stage"}, "DISTILL.StructuredKD.PRESET: unknown 'two-stage'.*'two_stage'"),
    ({"channel_mask": 2}, "DISTILL.StructuredKD.CHANNEL_MASK: unknown '2'"),
    ({"mask_fuse": "mean"}, "DISTILL.StructuredKD.MASK_FUSE: unknown 'mean'"),
    ({"at_pool": "x"}, "DISTILL.StructuredKD.AT_POOL: unknown 'x'"),
    ({"non_local_norm": "LN"}, "DISTILL.StructuredKD.NON_LOCAL_NORM: unknown 'LN'.*BN"),
    ({"temperature": 0}, "DISTILL.StructuredKD.TEMPERATURE must be above 0"),
    ({"feat_weight": -2}, "DISTILL.StructuredKD.FEAT_WEIGHT must be at least 0"),
    ({"ref_ims_per_gpu": -1}, "DISTILL.StructuredKD.REF_IMS_PER_GPU must be at least 0"),
    ({"num_levels": 0}, "DISTILL.StructuredKD.NUM_LEVELS must be above 0"),
])  # fmt: skip
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        StructuredKD(feature_spec({8: 4}), feature_spec({8: 4}), **option)


def test_no_common_stride():
    with pytest.raises(ValueError, match=r"StructuredKD found no common FPN stride"):
        StructuredKD(feature_spec({8: 4}), feature_spec({4: 4}))


ONE_STAGE = ("RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints")
RCNN = {
    "Faster": {"MODEL__MASK_ON": False},
    "Mask": {},
    "Cascade": {
        "MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
    },
}


def build(kind, channels=8, seed=0):
    meta = "GeneralizedRCNN" if kind in RCNN else kind
    return detector(meta, channels, seed, **RCNN.get(kind, {}))


@pytest.mark.parametrize(("student", "teacher", "strides"), [
    *((kind, kind, [8, 16, 32, 64, 128]) for kind in ONE_STAGE),
    *((kind, kind, [4, 8, 16, 32, 64]) for kind in RCNN),
    ("Faster", "Cascade", [4, 8, 16, 32, 64]), ("FCOS", "RetinaNet", [8, 16, 32, 64, 128]),
    ("RetinaNet", "Mask", [8, 16, 32, 64]), ("Mask", "FCOS", [8, 16, 32, 64]),
])  # fmt: skip
def test_families(student, teacher, strides):
    model = distill(build(student), [build(teacher, 12, 1)], ("StructuredKD",)).train()
    head = model.heads["StructuredKD"]
    assert head.strides == strides
    assert head.values.feat == (7e-5 if student in RCNN else 4.2e-4)
    losses = model(make_batch())
    terms = [losses[f"loss_StructuredKD_{name}"] for name in TERMS]
    assert all(v.item() > 0 for v in terms)
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN"])
def test_norms_train_on_one_image(norm):
    _, model = pair(heads=("StructuredKD",), options={"StructuredKD": {"NON_LOCAL_NORM": norm}})
    optimizer = torch.optim.SGD(model.heads.parameters(), 0.01)
    for step in range(2):
        optimizer.zero_grad()
        losses = model(make_batch(sizes=((96, 128),), seed=step))
        sum(losses.values()).backward()
        optimizer.step()
    assert all(v.isfinite() for v in losses.values())
    theta = model.heads["StructuredKD"].non_local_teacher["8"].theta.weight
    assert theta.grad.abs().sum() > 0
