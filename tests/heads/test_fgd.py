"""FGD: hand cases with gradients, presets, images of other sizes, modules, errors."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.heads import FGD
from d2kd.heads.global_context import GlobalContext
from d2kd.losses.focal_global import relation_distance
from d2kd.testing import make_batch
from tests.helpers import feature_output, feature_spec, output_of, pair

DENSE = {"num_anchors": 1}
TERMS = ["fg", "bg", "attention", "relation"]
ONES = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0, "relation_weight": 1.0, "temperature": 0.5}


def maps(*channels, rows=2):
    """One image; each channel's values row by row."""
    return torch.tensor(channels, dtype=torch.float64).view(1, len(channels), rows, -1)


STUDENT = maps([0, 1, 2, 0, 1, 0], [1, 0, 0.5, 0, -1, 1])
TEACHER = maps([1, 0, 2, 0, 1, -1], [3, 0, 0, 0, 0, 1])
BOX = [(1, 1, 7, 7)]


def build(channels=2, **options):
    spec = feature_spec({8: channels}, **DENSE)
    return FGD(spec, spec, **options).double()


def run(head, s, t, boxes=BOX):
    given = [boxes] * len(s)
    return head(output_of({8: s}, given, (16, 24)), output_of({8: t}))


def near(value, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    assert_close(value.detach().flatten(), expected.flatten(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("term", "value", "gradient"), [
    ("fg", 5.048473, [-2.575676, 0.047175, 0, 0, 0, 0, -3.691105, 0, 0, 0, -0.091885, 0]),
    ("bg", 0.411022, [0, 0, 0, 0, 0, 0.697160, 0, 0, 0.249768, 0, 0, 0]),
    ("attention", 7.932113, [0, -0.116128, 0.632089, 0, 0.253132, 0,
                             -0.589590, 0, 1.294148, 0, -0.915190, -0.589590]),
    ("relation", 8.25, [-2, 2, 0, 0, 0, 2, -4, 0, 1, 0, -2, 0]),
])  # fmt: skip
def test_terms(term, value, gradient):
    """m_fg is 1 / 4 in cells 0, 1, 3, 4 and m_bg 1 / 2 in cells 2 and 5; S(t) = 4.421228 0.080978
    0.598348 | 0.080978 0.220120 0.598348, K(t) = 1.165140 0.834860."""
    s = STUDENT.clone().requires_grad_()
    loss = run(build(**ONES), s, TEACHER)[term]
    loss.backward()
    near(loss, [value])
    near(s.grad, gradient)


def test_total_of_one_stage_and_the_temperature_of_fcos():
    near(sum(run(build(preset="one_stage"), STUDENT, TEACHER).values()) * 1e3, [9.261290])
    losses = run(build(**{**ONES, "temperature": 0.8}), STUDENT, TEACHER)
    near(torch.stack([losses[x] for x in TERMS[:3]]), [3.901014, 0.603692, 5.253310])


@torch.no_grad()
def blocks():
    """A head of 6 channels: v_s picks channel 1, v_t channel 2; W1 channels 1 to 3, W2 both
    halves."""
    head = build(6, **{**ONES, "alpha": 0.0, "beta": 0.0, "gamma": 0.0})
    both = head.context_student["8"], head.context_teacher["8"]
    for channel, block in enumerate(both):
        block.weigh.weight.zero_()[0, channel] = 1
        torch.nn.init.eye_(block.reduce.weight)
        block.reduce.bias.copy_(torch.tensor([0, 0.5, 1]))
        block.norm.bias.fill_(0.5)
        block.restore.weight.copy_(torch.eye(3).repeat(2, 1))
        block.restore.bias[5] = 1
    return head, *both


PAIR = (maps([1, 0], [0, 2], [-1, 1], [0, 1], [2, -1], [1, 1], rows=1),
        maps([1, 1], [0, 1], [0, 1], [2, 0], [0, 0], [-1, 3], rows=1))  # fmt: skip


def test_relation_of_two_context_blocks():
    """The contexts start 0.731059 0.537883 -0.462117 and 1 0.731059 0.731059."""
    head, student, teacher = blocks()
    s = PAIR[0].clone().requires_grad_()
    near(student(s), [0.316012, 1.806184, 0, 0.316012, 1.806184, 1])
    near(teacher(PAIR[1]), [0, 0.206198, 1.844857, 0, 0.206198, 2.844857])
    loss = run(head, s, PAIR[1])["relation"]
    loss.backward()
    near(loss, [54.078885])
    near(s.grad, [-32.848158, 6.765606, 10.366669, 7.836453, 5.673439, 0.490556,
                  -3.367976, 2.632024, 7.199973, 1.199973, 0.310285, -7.689715])  # fmt: skip
    near(student.weigh.weight.grad,
         [-14.950333, 29.900665, 29.900665, 14.950333, -44.850998, 0])  # fmt: skip
    near(student.reduce.bias.grad, [-25.346601, 9.803177, 15.543424])
    near(student.norm.bias.grad, [-1.471903, 16.799891, 0])
    near(teacher.restore.bias.grad,
         [0.735952, -8.399945, 9.379429, 0.735952, -8.399945, 7.379429])  # fmt: skip


def test_relation_keeps_its_digits_where_the_shift_cancels_the_mean():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 50, 84, generator=rng, dtype=torch.float64) + 10
    shift = -x.mean((2, 3)) + 1e-3
    exact = (x + shift[..., None, None]).square().sum()
    assert_close(relation_distance(x, shift), exact)
    assert_close(relation_distance(x.float(), shift.float()).double(), exact, rtol=5e-7, atol=0)


def test_equal_maps_give_zero_and_gradient_zero():
    s = TEACHER.clone().requires_grad_()
    losses = run(build(**ONES), s, TEACHER)
    assert list(losses) == TERMS and all(v.item() == 0 for v in losses.values())
    sum(losses.values()).backward()
    assert torch.equal(s.grad, torch.zeros_like(s))


def test_two_equal_images_are_as_one():
    head = build(**ONES)
    one, two = (run(head, *(torch.cat([x] * n) for x in (STUDENT, TEACHER))) for n in (1, 2))
    for name in TERMS:
        assert_close(two[name], one[name])


def test_a_box_of_the_whole_image_and_none():
    head, empty = build(**ONES), {}
    whole = run(head, STUDENT, TEACHER, [(0, 0, 24, 16)])
    assert whole["bg"].item() == 0 and whole["fg"].item() > 0
    for boxes in ([], [(-9, -9, 0, 0)], [(3, 3, 3, 9)]):
        empty = run(head, STUDENT, TEACHER, boxes)
        assert empty["fg"].item() == 0 and empty["bg"].item() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """All attention on one of many cells is their number, which float16 may not hold, squared."""
    rng = torch.Generator().manual_seed(0)
    s, t = (torch.randn(1, 8, 60, 60, generator=rng) for _ in range(2))
    t[..., 0, 0] = 100
    head = build(8, **ONES).float()
    exact = run(head, s, t)
    with torch.autocast("cpu", torch.bfloat16):
        losses = run(head, s.to(dtype), t.to(dtype))
    assert {v.dtype for v in losses.values()} == {torch.float32}
    for name in TERMS:
        assert_close(losses[name], exact[name], rtol=0.02, atol=0)


def test_half_precision_of_the_finest_map():
    """All attention on one of its 67,200 cells is a weight that float16 cannot hold."""
    rng = torch.Generator().manual_seed(0)
    s, t = (torch.randn(1, 2, 200, 336, generator=rng).half() for _ in range(2))
    t[..., 0, 0] = 100
    head = build(**ONES).float()
    losses, exact = run(head, s, t), run(head, s.float(), t.float())
    assert {v.dtype for v in losses.values()} == {torch.float32}
    assert all(v.isfinite() for v in losses.values())
    assert_close(losses, exact)


def test_gradients():
    head = build(**ONES)
    for block in (*head.context_student.values(), *head.context_teacher.values()):
        torch.nn.init.ones_(block.restore.weight)
    rng = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 2, 2, 2, 3, generator=rng, dtype=torch.float64)
    s = s.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(run(head, x, t).values()), (s,))


@pytest.mark.parametrize(("specs", "keys", "expected"), [
    ((4, 8), {}, "two_stage"), ((8, 16), DENSE, "one_stage"), ((4, 8), DENSE, "two_stage"),
    ((8, 16), {**DENSE, "box_coding": "distance"}, "fcos"),
    ((8, 16), {**DENSE, "box_coding": "anchor_delta"}, "one_stage"),
    ((8, 16), {**DENSE, "box_coding": "points"}, "reppoints"),
])  # fmt: skip
def test_automatic_preset(specs, keys, expected):
    spec = feature_spec(dict.fromkeys(specs, 4), **keys)
    assert FGD(spec, spec).values == FGD(spec, spec, preset=expected).values


def test_presets():
    spec = feature_spec(dict.fromkeys((4, 8, 16, 32, 64), 8))
    heads = {x: FGD(spec, spec, preset=x) for x in ("two_stage", "one_stage", "fcos", "reppoints")}
    assert {name: tuple(head.values) for name, head in heads.items()} == {
        "two_stage": (5e-5, 2.5e-5, 5e-5, 5e-7, 0.5, 4),
        "one_stage": (1e-3, 5e-4, 5e-4, 5e-6, 0.5, 5),
        "fcos": (1.6e-3, 8e-4, 8e-4, 8e-6, 0.8, 5),
        "reppoints": (1.6e-3, 8e-4, 8e-4, 8e-6, 0.5, 5),
    }
    assert heads["two_stage"].strides == [4, 8, 16, 32]
    assert FGD(spec, spec, num_levels=5).strides == [4, 8, 16, 32, 64]
    assert FGD(spec, spec, alpha=0.5).values == heads["two_stage"].values._replace(alpha=0.5)
    assert FGD.default_weight == 1.0


def test_modules():
    """Two blocks a level of v (C), W1 and b1, LN, W2 and b2; v's bias would never move."""
    head = build(6)
    blocks = [x for x in head.modules() if isinstance(x, GlobalContext)]
    assert len(blocks) == 2 and len(head.project) == 0
    assert sum(p.numel() for p in blocks[0].parameters()) == 6 + 7 * 3 + 2 * 3 + 4 * 6
    assert blocks[0].weigh.bias is None
    assert (
        not blocks[0].restore.weight.any() and not blocks[0](torch.ones(1, 6, 1, 2).double()).any()
    )
    assert not list(build(6, relation_weight=0.0).parameters())
    wider = FGD(feature_spec({8: 4}, **DENSE), feature_spec({8: 6}))
    assert list(wider.project) == ["8"] and wider.context_student["8"].reduce.in_features == 6


@pytest.mark.parametrize(("option", "terms"), [
    ({"alpha": 0.0, "beta": 0.0}, TERMS[2:]), ({"gamma": 0.0}, ["fg", "bg", "relation"]),
    ({"relation_weight": 0.0}, TERMS[:3]), ({"alpha": 0.0}, TERMS[1:]),
    ({"beta": 0.0}, ["fg", *TERMS[2:]]),
])  # fmt: skip
def test_terms_without_weight(option, terms):
    head = build(**option)
    losses = run(head, STUDENT.clone().requires_grad_(), TEACHER)
    assert list(losses) == terms
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_gradient_reaches_all_modules_but_not_the_teacher():
    specs = feature_spec({8: 4, 16: 4}, **DENSE), feature_spec({8: 6, 16: 6})
    head = FGD(*specs)
    s, t = feature_output({8: 4, 16: 4}, 0), feature_output({8: 6, 16: 6}, 1)
    s.gt = output_of({}, [BOX, []]).gt
    for x in (*s.features.values(), *t.features.values()):
        x.requires_grad_()
    sum(head(s, t).values()).backward()
    assert all(x.grad is None for x in t.features.values())
    assert all(x.grad.abs().sum() > 0 for x in s.features.values())
    for name, parameter in head.named_parameters():
        behind = any(x in name for x in ("weigh.", "reduce.", "norm."))  # of W2, which starts at 0
        assert (parameter.grad.abs().sum() == 0) == behind, name


def test_images_of_a_batch_keep_their_own_boxes():
    """The smaller image's objects lie where its pixels are, whatever the batch is padded to."""
    _, model = pair("RetinaNet", ("FGD",))
    batch = make_batch(sizes=((96, 128), (48, 64)))
    student = model.run_student(batch)
    teacher = model.run_teachers(batch, student)[0]
    found = model.heads["FGD"].maps(student, teacher)["foreground"][8][1]
    assert found.any() and not found[7:].any() and not found[:, 9:].any()


def test_maps():
    _, model = pair("RetinaNet", ("FGD",))
    batch = make_batch()
    student = model.run_student(batch)
    head, teacher = model.heads["FGD"], model.run_teachers(batch, student)[0]
    found = head.maps(student, teacher)
    assert list(found) == ["difference", "foreground", "background", "teacher's attention"]
    for by_stride in found.values():
        assert list(by_stride) == head.strides
        for stride, x in by_stride.items():
            assert x.shape == (2, *student.features[stride].shape[2:])
            assert x.dtype == torch.float32 and not x.requires_grad and x.min() >= 0
    assert_close(found["teacher's attention"][8].mean((1, 2)), torch.ones(2))


@pytest.mark.parametrize(("option", "message"), [
    ({"preset": "solo"}, "DISTILL.FGD.PRESET: unknown 'solo'"),
    ({"temperature": 0.0}, "DISTILL.FGD.TEMPERATURE must be above 0"),
    ({"alpha": -2.0}, "DISTILL.FGD.ALPHA must be at least 0"),
    ({"num_levels": 0}, "DISTILL.FGD.NUM_LEVELS must be above 0"),
    ({"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "relation_weight": 0.0},
     "DISTILL.FGD: ALPHA, BETA, GAMMA, RELATION_WEIGHT are all 0"),
])  # fmt: skip
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        build(**option)
