"""What holds for every method on FPN maps, and the hand values of FitNets, CWD and MGD."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from d2kd import DistillationHead
from d2kd.heads import CWD, MGD, PKD, FitNets
from d2kd.testing import make_batch
from tests.helpers import (
    clone,
    detector,
    distill,
    feature_output,
    feature_spec,
    make_identity,
    output_of,
    pair,
)
from tests.losses.test_attention import STUDENT, TEACHER, near

HEADS = ["CWD", "CanKD", "FitNets", "MGD", "MasKD", "PKD", "StructuredKD"]
OF_OBJECTS = ["DetKDS", "FGD"]  # read boxes, too
ALL = [*HEADS, *OF_OBJECTS, "VFM"]
FAMILIES = ["RetinaNet", "GeneralizedRCNN"]
SPEC = feature_spec({8: 2}, num_anchors=1)


def toy(head, student=STUDENT, teacher=TEACHER):
    head = make_identity(head.double())
    return head(*(output_of({8: x}) for x in (student, teacher)))["feat"]


def of_maps(features):
    """An output of images with an object each, by maps from the finest level on."""
    stride, x = next(iter(features.items()))
    count, size = len(x), (stride * x.shape[2], stride * x.shape[3])
    out = output_of(features, [[(9, 9, 60, 60)]] * count, size)
    out.images = SimpleNamespace(image_sizes=[size] * count, device=torch.device("cpu"))
    return out


def terms(losses, head):
    return {k: v for k, v in losses.items() if k.startswith(f"loss_{head}_")}


def test_fitnets():
    """(1 + 1 + 0 + 0 + 4 + 0 + 0 + 1) / 8."""
    near(toy(FitNets(SPEC, SPEC)), 0.875)
    two = [torch.cat([x, x]) for x in (STUDENT, TEACHER)]
    near(toy(FitNets(SPEC, SPEC), *two), 0.875)
    assert set(FitNets(SPEC, SPEC).project) == {"8"}


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 0.250895), (4.0, 0.324567)])
def test_cwd(temperature, value):
    """At T = 1, with Z = e^3 + 3 and Y = e + 2 + 1 / e, the channels' KL are (e - 1) / (2 e + 2) =
    0.231059 and (e^3 (3 - 1) + 1) / Z - ln Z + ln Y = 0.270732; CWD is their mean."""
    head = CWD(SPEC, SPEC, temperature=temperature)
    near(toy(head), value)
    shift = torch.tensor([3.0, -7.0], dtype=torch.float64).view(1, 2, 1, 1)
    assert abs(toy(head, TEACHER + shift).item()) < 1e-12
    s = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: toy(head, x), (s,))


def test_mgd_without_a_mask():
    """Identity convolutions leave G = ReLU: s becomes 0 1 0 1 | 1 0 0 0, and the sum of squares
    1 + 1 + 4 = 6, of two equal images 12 / 2."""
    head = MGD(SPEC, SPEC, mask_ratio=0)
    near(toy(head) / 2e-5, 6.0)
    near(toy(head, *(torch.cat([x, x]) for x in (STUDENT, TEACHER))) / 2e-5, 6.0)
    near(toy(MGD(SPEC, SPEC, mask_ratio=0, alpha=0.5)), 3.0)


def test_mgd_masks_cells_in_all_channels_by_the_seed():
    """s = 1 and t = 0: each kept cell adds 1 for each of its 2 channels."""
    ones = torch.ones(1, 2, 100, 100, dtype=torch.float64)
    head, counts = MGD(SPEC, SPEC, alpha=1.0), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        counts.append(toy(head, ones, 0 * ones).item())
    assert counts[0] == counts[1] != counts[2]
    assert all(c % 2 == 0 and abs(c / 2e4 - 0.35) < 0.02 for c in counts)


def test_mgd_presets():
    dense, two = MGD(SPEC, SPEC), MGD(feature_spec({8: 2}), SPEC)
    assert (dense.alpha, dense.mask_ratio) == (2e-5, 0.65)
    assert (two.alpha, two.mask_ratio) == (5e-7, 0.45)
    assert MGD(SPEC, SPEC, preset="two_stage").alpha == 5e-7
    assert len(dense.project) == 0 and len(MGD(SPEC, feature_spec({8: 3})).project) == 1


@pytest.mark.parametrize(("build", "message"), [
    (lambda: MGD(SPEC, SPEC, mask_ratio=1.0), "DISTILL.MGD.MASK_RATIO must be below 1"),
    (lambda: MGD(SPEC, SPEC, alpha=-2.0), "DISTILL.MGD.ALPHA must be at least 0"),
    (lambda: MGD(SPEC, SPEC, preset="x"), "DISTILL.MGD.PRESET: unknown 'x'"),
    (lambda: CWD(SPEC, SPEC, temperature=0), "DISTILL.CWD.TEMPERATURE must be above 0"),
    (lambda: FitNets(SPEC, feature_spec({4: 2})), "FitNets found no common FPN stride"),
])  # fmt: skip
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_published_weights():
    assert (FitNets.default_weight, MGD.default_weight, CWD.default_weight) == (1.0, 1.0, 10.0)


@pytest.mark.parametrize("meta", FAMILIES)
@pytest.mark.parametrize("name", HEADS + OF_OBJECTS)
def test_identical_teacher_gives_zero(name, meta):
    student = detector(meta)
    options = {"MGD": {"MASK_RATIO": 0.0}}
    model = distill(student, [clone(student)], (name,), options=options).train()
    make_identity(model.heads)
    losses = terms(model(make_batch()), name)
    assert losses and all(v.item() == 0 for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("meta", FAMILIES)
@pytest.mark.parametrize("name", ALL)
def test_bfloat16_losses_are_float_and_near(name, meta):
    _, model = pair(meta, (name,))
    torch.manual_seed(0)
    exact = terms(model(make_batch()), name)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = terms(model(make_batch()), name)
    assert mixed and {v.dtype for v in mixed.values()} == {torch.float32}
    for key, value in mixed.items():
        assert_close(value, exact[key], rtol=0.05, atol=0)


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize("boxes", [0, 4])
@pytest.mark.parametrize(
    ("name", "images"),
    [(name, n) for name in ALL for n in (1, 2) if (name, n) != ("DetKDS", 1)],
)
def test_every_parameter_has_a_finite_gradient(name, images, boxes, scale):
    """A batch of one, whose coarsest map is a single cell, and images without objects too."""
    _, model = pair("RetinaNet", (name,))
    model.scale = scale
    losses = model(make_batch(sizes=((96, 128),) * images, boxes=boxes))
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ALL)
def test_features_of_zero(name):
    _, model = pair("RetinaNet", (name,))
    head, widths = model.heads[name], (8, 12)
    sizes = {8: 12, 16: 6, 32: 3, 64: 2, 128: 1}
    maps = [{s: torch.zeros(2, c, n, n, requires_grad=c == 8) for s, n in sizes.items()}
            for c in widths]  # fmt: skip
    losses = head(*map(of_maps, maps))
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert all(maps[0][s].grad.isfinite().all() for s in head.strides)


@pytest.mark.parametrize("name", [name for name in ALL if name != "PKD"])
def test_half_precision_maps_do_not_overflow(name):
    """A difference of 0.1 on 256 channels of 200 x 304 cells: the sum of squares is 155648."""
    _, model = pair("RetinaNet", (name,))
    spec = feature_spec({8: 256}, num_anchors=1)
    head = type(model.heads[name])(spec, spec)
    s = torch.zeros(1).bfloat16().expand(2 if name == "DetKDS" else 1, 256, 200, 304)
    maps = [of_maps({8: x}) for x in (s, s + 0.1)]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        losses = head(*maps)
    assert all(v.dtype == torch.float32 and v.isfinite() for v in losses.values())


@pytest.mark.parametrize("meta", FAMILIES)
@pytest.mark.parametrize("name", HEADS)
def test_maps(name, meta):
    _, model = pair(meta, (name,))
    head = model.heads[name]
    sides = [detector(meta), detector(meta, 12, seed=1)]
    batch = torch.rand(2, 3, 96, 128)
    shapes = [(s.backbone(batch), s.backbone.output_shape()) for s in sides]
    outputs = [output_of({shape[k].stride: x for k, x in maps.items()}) for maps, shape in shapes]
    state = torch.get_rng_state()
    maps = head.maps(*outputs)
    assert torch.equal(state, torch.get_rng_state())
    for by_stride in maps.values():
        assert list(by_stride) == head.strides
        for stride, x in by_stride.items():
            assert x.shape == (2, *outputs[0].features[stride].shape[2:])
            assert x.dtype == torch.float32 and not x.requires_grad
            assert x.min() >= 0 and x.max() > 0
    s, t = head.levels(*outputs)[8]
    assert_close(maps["difference"][8] ** 2 * t.shape[1], (s - t).square().sum(1).detach())


def test_a_head_without_maps():
    assert DistillationHead().maps(None, None) == {}


def test_projections_keep_their_names():
    """Checkpoints of PKD's projections from before FeatureHead load."""
    head = PKD(feature_spec({8: 4, 16: 4}), feature_spec({8: 4, 16: 6}))
    assert list(head.state_dict()) == ["project.16.weight", "project.16.bias"]


def test_maps_of_widths_that_nothing_projects():
    """Structured KD without its feature term has no adapter to compare such maps with."""
    specs = feature_spec({8: 4}), feature_spec({8: 6})
    _, model = pair("RetinaNet", ("StructuredKD",))
    head = type(model.heads["StructuredKD"])(*specs, feat_weight=0.0)
    maps = head.maps(feature_output({8: 4}, 0), feature_output({8: 6}, 1))
    assert maps["difference"] == {} and list(maps["spatial attention (fused)"]) == [8]
