"""DetKDS: hand cases with gradients, presets, random masks, one image, no object, errors."""

import pytest
import torch
from torch.testing import assert_close

from d2kd import DistillationTrainer
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.data import register_custom_datasets
from d2kd.errors import ConfigError
from d2kd.heads import DetKDS
from d2kd.testing import make_batch
from tests.helpers import detector, feature_spec, output_of, pair, write_config

DENSE = {"num_anchors": 1}
NONE = {"global_weight": 0.0, "fg_weight": 0.0, "bg_weight": 0.0, "instance_weight": 0.0}
PRESETS = ["gfl", "retinanet_r101", "retinanet_x101", "fcos", "faster_r101"]
BOX = [(1, 1, 15, 15)]


def images(*values):
    """One image of two channels and 2 x 2 cells for each list."""
    return torch.tensor(values, dtype=torch.float64).view(len(values), 2, 2, 2)


STUDENT = images([1, 2, 0, -1, 3, 0, 1, 1], [2, -1, 1, 0, 0, 1, 2, -2])
TEACHER = images([2, 1, 0, 0, 1, 1, 0, 2], [1, 1, -1, 3, 2, 0, 1, 0])


def build(channels=2, **options):
    spec = feature_spec({8: channels}, **DENSE)
    return DetKDS(spec, spec, **options).double()


def run(head, s, t, boxes=BOX):
    return head(output_of({8: s}, [boxes] * len(s)), output_of({8: t}))


def near(value, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    assert_close(value.detach().flatten(), expected.flatten(), atol=1e-6, rtol=0)


def test_global():
    s = STUDENT.clone().requires_grad_()
    losses = run(build(preset="gfl"), s, TEACHER)
    losses["global"].backward()
    assert list(losses) == ["global"]
    near(losses["global"], [1.560515])
    near(s.grad[0], [0.426116, 1.31, 0, -0.426116, -0.959482, 0, -0.426116, -0.426116])
    near(s.grad[1], [-1.31, 0.426116, -0.426116, 0, 0, 0.426116, 1.226165, -0.426116])


SINGLE = torch.arange(-1, 3, 0.25, dtype=torch.float64).view(1, 1, 4, 4)
TARGET = torch.tensor([0.0, 2, 4, 1, 3, 0, 2, 4, 1, 3, 0, 2, 4, 1, 3, 0]).double().view(1, 1, 4, 4)


@pytest.mark.parametrize(("term", "value", "gradient"), [
    ("fg", 0.406319, [-0.008123, -0.017957, -0.027791, 0, -0.047458, 0.037624, -0.067125, 0,
                      0.008123, -0.001710, -0.011544, 0, 0, 0, 0, 0]),
    ("bg", 0.109205, [0, 0, 0, -0.011356, 0, 0, 0, -0.014438, 0, 0, 0, 0.006734,
                      -0.018290, 0.005193, 0.004423, 0.003652]),
])  # fmt: skip
def test_objects_and_background_by_block(term, value, gradient):
    """The box covers rows and columns 0 to 2."""
    head = build(1, preset="retinanet_r101", global_weight=0.0)
    s = SINGLE.clone().requires_grad_()
    losses = run(head, s, TARGET)
    losses[term].backward()
    assert list(losses) == ["fg", "bg"]
    near(losses[term], [value])
    near(s.grad, gradient)


def test_instance():
    s = STUDENT[:1].clone().requires_grad_()
    losses = run(build(preset="retinanet_x101"), s, TEACHER[:1])
    losses["instance"].backward()
    near(losses["instance"], [18.025578])
    near(s.grad, [1.349404, 1.718763, -3.629342, -8.963176,
                  -1.595643, -2.417826, -1.718763, -8.963176])  # fmt: skip


def test_instance_is_a_mean_over_the_objects_of_the_batch():
    head = build(preset="retinanet_x101")
    first, second = (run(head, STUDENT[i : i + 1], TEACHER[i : i + 1])["instance"] for i in (0, 1))
    assert_close(run(head, STUDENT, TEACHER)["instance"], (first + second) / 2)
    boxes = [*BOX, (3, 3, 3, 9), (400, 400, 500, 500)]  # two that count for nothing
    assert_close(run(head, STUDENT[:1], TEACHER[:1], boxes)["instance"], first)


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_maps_give_zero_and_gradient_zero(preset):
    s = TEACHER.clone().requires_grad_()
    losses = run(build(preset=preset, fg_weight=1.0, bg_weight=1.0), s, TEACHER)
    assert losses and all(v.item() == 0 for v in losses.values())
    sum(losses.values()).backward()
    assert not s.grad.any()


def test_presets():
    spec = feature_spec(dict.fromkeys((4, 8, 16, 32, 64), 8))
    heads = {name: DetKDS(spec, spec, preset=name) for name in PRESETS}
    terms = {name: tuple(head.values[:4]) for name, head in heads.items()}
    assert terms == {
        "gfl": (10, 0, 0, 0), "retinanet_r101": (6, 2, 1, 0), "retinanet_x101": (0, 0, 0, 50),
        "fcos": (5, 2, 1, 0), "faster_r101": (2, 0, 0, 0),
    }  # fmt: skip
    assert {name: len(head.strides) for name, head in heads.items() if len(head.strides) == 4} == {
        "faster_r101": 4
    }
    used = {name: (heads[name].normalize, heads[name].values.mask_ratio) for name in terms}
    assert used["retinanet_r101"] == ("block", 0) and used["fcos"] == ("channel", 0.65)
    assert [heads[name].least_images for name in PRESETS] == [2, 2, 1, 2, 2]
    assert DetKDS(spec, spec, preset="fcos", normalize="block").normalize == "block"
    assert DetKDS.default_weight == 1.0


@pytest.mark.parametrize(("strides", "keys", "expected"), [
    ((4, 8), {}, "faster_r101"), ((4, 8), DENSE, "faster_r101"), ((8, 16), DENSE, "gfl"),
    ((8, 16), {**DENSE, "box_coding": "distribution"}, "gfl"),
    ((8, 16), {**DENSE, "box_coding": "anchor_delta"}, "retinanet_r101"),
    ((8, 16), {**DENSE, "box_coding": "distance"}, "fcos"),
    ((8, 16), {**DENSE, "box_coding": "points"}, "gfl"),
])  # fmt: skip
def test_automatic_preset(strides, keys, expected):
    spec = feature_spec(dict.fromkeys(strides, 4), **keys)
    found, named = DetKDS(spec, spec), DetKDS(spec, spec, preset=expected)
    assert (found.values, found.normalize) == (named.values, named.normalize)


def test_one_random_mask_for_all():
    """With t = 2 s and norms over channels nothing is left, which it would not be with two.

    Objects and background share it too: nothing else is drawn, and its cells have a gradient.
    """
    rng = torch.Generator().manual_seed(0)
    s = torch.randn(2, 3, 9, 11, generator=rng, dtype=torch.float64)
    head = build(3, preset="fcos", global_weight=0.0)
    losses = run(head, s, 2 * s)
    assert all(v.item() < 1e-12 for v in losses.values())
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses, state = run(head, s.requires_grad_(), s.detach().flip(0)), torch.get_rng_state()
        values.append(losses["fg"].item())
        torch.manual_seed(seed)
        kept = torch.rand(2, 9, 11) >= 0.65
        assert torch.equal(state, torch.get_rng_state()) and set(losses) == {"fg", "bg"}
        grad = torch.autograd.grad(sum(losses.values()), s)[0]
        assert torch.equal(grad.abs().sum(1) > 0, kept)
    assert values[0] == values[1] != values[2]


def test_the_share_of_cells_that_is_left_out():
    """The distance of unlike channels is 2 / C in each cell that is kept."""
    s = torch.zeros(1, 2, 100, 100, dtype=torch.float64)
    s[:, 0] = 1
    torch.manual_seed(0)
    head = build(**{**NONE, "bg_weight": 1.0}, preset="fcos")
    kept = run(head, s, s.flip(1), [])["bg"].item()
    assert abs(kept - 0.35) < 0.02 and abs(kept * 1e4 - round(kept * 1e4)) < 1e-6


@pytest.mark.parametrize("preset", PRESETS)
def test_without_objects(preset):
    """0 for what is about objects; every parameter still has a gradient."""
    head = DetKDS(feature_spec({8: 2}, **DENSE), feature_spec({8: 3}), preset=preset).double()
    rng = torch.Generator().manual_seed(0)
    t = torch.randn(2, 3, 2, 2, generator=rng, dtype=torch.float64)
    for boxes in ([], [(300, 300, 400, 400)]):
        s = STUDENT.clone().requires_grad_()
        losses = run(head, s, t, boxes)
        sum(losses.values()).backward()
        assert all(v.isfinite() for v in losses.values())
        assert all(losses[x].item() == 0 for x in ("fg", "instance") if x in losses)
        assert s.grad.isfinite().all() and s.grad.any() == (preset != "retinanet_x101")
        assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_maps_of_a_single_cell_and_of_odd_sizes(preset):
    head = build(preset=preset, fg_weight=1.0)
    for size in ((1, 1), (1, 3), (5, 2)):
        s = torch.ones(2, 2, *size, dtype=torch.float64).requires_grad_()
        losses = run(head, s, torch.rand(2, 2, *size).double())
        sum(losses.values()).backward()
        assert all(v.isfinite() for v in losses.values()) and s.grad.isfinite().all()


def test_one_image_is_refused():
    with pytest.raises(ValueError, match=r"DISTILL.DetKDS.GLOBAL_WEIGHT .*SOLVER.IMS_PER_BATCH"):
        run(build(preset="gfl"), STUDENT[:1], TEACHER[:1])
    assert run(build(preset="retinanet_x101"), STUDENT[:1], TEACHER[:1])["instance"] > 0


def test_one_image_a_rank_is_refused_before_training(tmp_path, squares):
    cfg = get_d2kd_cfg()
    path = write_config(tmp_path, squares, SOLVER__IMS_PER_BATCH=1)
    merge_config_file(cfg, str(path), "--config-file")
    teacher = detector(MODEL__RETINANET__NUM_CLASSES=2)
    torch.save({"model": teacher.state_dict()}, tmp_path / "t.pth")
    cfg.merge_from_list([
        "MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", "RetinaNet", "DISTILL.HEADS",
        "('DetKDS',)", "DISTILL.TEACHER.CONFIG_FILES", f"('{path}',)", "DISTILL.TEACHER.WEIGHTS",
        f"('{tmp_path}/t.pth',)",
    ])  # fmt: skip
    register_custom_datasets(cfg)
    with pytest.raises(ConfigError, match="IMS_PER_BATCH is 1, .* DetKDS .* to 2 or more") as error:
        DistillationTrainer(cfg)
    assert "\n" not in str(error.value)


def test_maps():
    _, model = pair("FCOS", ("DetKDS",))
    batch = make_batch()
    student = model.run_student(batch)
    head, teacher = model.heads["DetKDS"], model.run_teachers(batch, student)[0]
    state = torch.get_rng_state()
    found = head.maps(student, teacher)
    assert torch.equal(state, torch.get_rng_state())
    assert list(found) == ["difference", "foreground", "background"]
    for by_stride in found.values():
        assert {s: x.shape for s, x in by_stride.items()} == {
            s: (2, *student.features[s].shape[2:]) for s in head.strides
        }
        assert all(x.min() >= 0 and not x.requires_grad for x in by_stride.values())


@pytest.mark.parametrize(("option", "message"), [
    ({"preset": "cascade"}, "DISTILL.DetKDS.PRESET: unknown 'cascade'"),
    ({"normalize": "x"}, "DISTILL.DetKDS.NORMALIZE: unknown 'x'"),
    ({"mask_ratio": 1.0}, "DISTILL.DetKDS.MASK_RATIO must be below 1"),
    ({"mask_ratio": -0.5}, "DISTILL.DetKDS.MASK_RATIO must be at least 0"),
    ({"fg_weight": -2.0}, "DISTILL.DetKDS.FG_WEIGHT must be at least 0"),
    ({"num_levels": 0}, "DISTILL.DetKDS.NUM_LEVELS must be above 0"),
    (NONE, "DISTILL.DetKDS: GLOBAL_WEIGHT, FG_WEIGHT, BG_WEIGHT, INSTANCE_WEIGHT are all 0"),
])  # fmt: skip
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        build(**option)
