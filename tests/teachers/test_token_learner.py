"""Stage 1 of MasKD: tokens learn by the losses of a teacher that stays as it is."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from d2kd import Teacher, build_adapter
from d2kd.adapters import MapsAdapter
from d2kd.adapters.class_map import ClassMap
from d2kd.checkpoint.values import digest
from d2kd.detectors.loss_normalizer import set_moving_averages
from d2kd.heads.tokens_file import read_tokens
from d2kd.losses.maskd import pooled_convolution, token_masks
from d2kd.teachers import OutputCache, TensorStore, TokenLearner
from d2kd.testing import make_batch
from tests.helpers import detector
from tests.losses.test_maskd import plain_dice

FAMILIES = [
    "RetinaNet",
    "FCOS",
    "ATSS",
    "AutoAssign",
    "DDOD",
    "GFL",
    "RepPoints",
    "GeneralizedRCNN",
]


@pytest.fixture(autouse=True)
def storage():
    with EventStorage(0):
        yield


def learner(meta="RetinaNet", seed=0, **options):
    teacher = Teacher(detector(meta, 12, seed=1))
    torch.manual_seed(seed)
    return TokenLearner(teacher=teacher, name="T", **options).train()


def losses_of(model, batch, seed=0):
    torch.manual_seed(seed)
    return model(batch)


@pytest.mark.parametrize("meta", FAMILIES)
def test_losses_on_the_own_maps_are_the_stock_ones(meta):
    model, batch = detector(meta).train(), make_batch()
    expected = losses_of(copy.deepcopy(model), batch)
    adapter = build_adapter(model)
    images = adapter.preprocess(batch, adapter.divisor)
    output = adapter(images, None, frozenset({"features"}))
    torch.manual_seed(0)
    found = adapter.losses_on(output, output.features, [x["instances"] for x in batch])
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("boxes", [0, 4])
@pytest.mark.parametrize("meta", FAMILIES)
def test_every_token_and_nothing_else_has_a_gradient(meta, boxes):
    model = learner(meta)
    state = digest(model.detector)
    losses = losses_of(model, make_batch(boxes=boxes))
    sum(losses.values()).backward()
    assert len(losses) > 2 and all(x.isfinite() for x in losses.values())
    names = {name.split(".", 2)[2] for name, _ in model.named_parameters()}
    assert names == {"tokens", "conv.weight", "conv.bias", "mix.weight", "mix.bias"}
    assert len(model.levels) == len(model.teachers[0].adapter.spec().features) == 5
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None and not p.requires_grad for p in model.detector.parameters())
    assert digest(model.detector) == state
    assert all(name.startswith("levels.") for name in model.state_dict())


def trained(model, term, steps=30):
    """First and last value of some losses, by Adam as published, on one batch."""
    optimizer, found = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3), []
    for _ in range(steps):
        set_moving_averages(model.detector, {"loss_normalizer": 100.0})
        losses = losses_of(model, make_batch(((64, 64),)))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append(sum(x.item() for name, x in losses.items() if term(name)))
    return found[0], found[-1]


@pytest.mark.parametrize("meta", ["RetinaNet", "GFL", "GeneralizedRCNN"])
def test_the_teachers_loss_falls(meta):
    """Without the overlap's weight, and of heads that are not near zero as new ones are."""
    model = learner(meta, dice=0.0)
    torch.manual_seed(0)
    for name, parameter in model.detector.named_parameters():
        if not name.startswith("backbone."):
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    first, last = trained(model, lambda name: name != "loss_dice")
    assert last < 0.97 * first


def test_the_overlap_falls():
    first, last = trained(learner(), lambda name: name == "loss_dice")
    assert 4.5 < first < 5 and last < 0.8 * first  # near one a level, as all masks are one half


def test_maps_and_overlap_are_those_of_the_plain_form():
    level = learner().levels["8"].double()
    torch.nn.init.normal_(level.tokens)
    x = torch.randn(2, 12, 5, 6, dtype=torch.float64)
    weights = level.mix(level.conv(x).mean((2, 3))).softmax(1)
    masks = torch.einsum("tc,nchw->nthw", level.tokens, x).sigmoid()
    masked, overlap = level(x)
    assert_close(masked, sum(weights[:, k, None, None, None] * masks[:, k : k + 1] * x
                             for k in range(6)), atol=1e-12, rtol=0)  # fmt: skip
    assert_close(overlap, plain_dice(masks), atol=1e-12, rtol=0)
    pull = torch.randn_like(masked)
    plain = torch.einsum("nk,nkhw,nchw->nchw", weights, masks, x)
    parameters = list(level.parameters())
    fast, slow = (torch.autograd.grad((y * pull).sum() + d, parameters)
                  for y, d in ((masked, overlap), (plain, plain_dice(masks))))  # fmt: skip
    for a, b in zip(fast, slow, strict=True):
        assert_close(a, b, atol=1e-10, rtol=0)


def test_batch_norm_keeps_its_statistics():
    teacher = detector("RetinaNet", 12, seed=1, MODEL__RETINANET__NORM="BN")
    model = TokenLearner(teacher=Teacher(teacher), name="T").train()
    before = {k: x.clone() for k, x in teacher.state_dict().items()}
    model(make_batch())
    assert any("running_mean" in k for k in before)
    assert all(torch.equal(x, teacher.state_dict()[k]) for k, x in before.items())


def test_objects_of_classes_that_the_teacher_lacks():
    """The data's classes 0, 1, 2 and 3 are the teacher's 2, none, 0 and 1."""
    classes = ClassMap(4, (0, 2, 3), ((2,), (0,), (1,)))
    model, plain = learner(class_map=classes), learner()
    batch = make_batch(classes=4, boxes=6)
    seen = copy.deepcopy(batch)
    for x in seen:
        objects = x["instances"][x["instances"].gt_classes != 1]
        objects.gt_classes = torch.tensor([2, -1, 0, 1])[objects.gt_classes]
        x["instances"] = objects
    assert any(len(a["instances"]) > len(b["instances"]) for a, b in zip(batch, seen, strict=True))
    assert model.num_classes == 4
    for name, value in losses_of(plain, seen).items():
        assert torch.equal(losses_of(learner(class_map=classes), batch)[name], value), name


def test_cached_features(tmp_path):
    """The teacher's maps are stored like those of a distillation, and the losses are the same."""
    model, batch = learner(), make_batch()[:1]
    expected = losses_of(model, batch)
    teacher = model.teachers[0]
    teacher.cache = OutputCache(TensorStore(tmp_path, 10**8), teacher.adapter, "")
    for _ in range(2):
        set_moving_averages(model.detector, {"loss_normalizer": 100.0})
        found = losses_of(model, batch)
        assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert list(tmp_path.rglob("*.safetensors"))


def test_written_tokens(tmp_path):
    model = learner("GFL", number=3)
    model.write(tmp_path)
    found = read_tokens(tmp_path)
    assert found.teacher == "T" and found.digest == digest(model.detector.backbone)
    assert list(found.levels) == [8, 16, 32, 64, 128]
    x, level, tokens = torch.randn(1, 12, 4, 4), model.levels["16"], found.levels[16]
    weights = level.mix(level.conv(x).mean((2, 3)))
    assert_close(pooled_convolution(x, tokens.kernel, tokens.bias), weights, atol=1e-6, rtol=1e-5)
    assert torch.equal(token_masks(x, tokens.tokens), token_masks(x, level.tokens))


def test_a_teacher_without_losses():
    teacher = Teacher(detector("RetinaNet", 12))
    teacher.adapter = MapsAdapter(teacher.detector)
    with pytest.raises(ValueError, match="RetinaNet has no training losses here"):
        TokenLearner(teacher=teacher, name="T")
    for options in ({"number": 0}, {"dice": -1.0}):
        with pytest.raises(ValueError, match=r"DISTILL.TOKENS.(NUMBER|DICE) is"):
            learner(**options)
