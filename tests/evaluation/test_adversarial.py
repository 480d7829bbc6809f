"""Attacks raise the loss of real detectors, stay inside epsilon and leave the detector alone."""

import copy

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torch.testing import assert_close

from d2kd.evaluation.adversarial import (
    AttackedDetector,
    fgsm,
    perturb,
    projected_gradient,
    task_loss,
)
from d2kd.quantize import quantize_student, set_rounding, with_ranges
from d2kd.testing import make_batch
from tests.helpers import detector
from tests.quantize.conftest import config

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
EPSILON = 8.0


ALL_BOXES = {
    "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 9999,
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 999,
    "MODEL__DDOD__DEFORM": False,  # offsets of large random weights are far outside the map
}


def example():
    return make_batch(sizes=((96, 96),))[0]


def sensitive(meta, **keys):
    """A detector whose weights are large enough for its loss to depend on the image."""
    model = detector(meta, **keys).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("meta", FAMILIES)
@pytest.mark.parametrize("attack", [fgsm(EPSILON), projected_gradient(EPSILON, 3)], ids=["1", "3"])
def test_the_loss_rises_and_the_image_stays_near(meta, attack):
    model, clean = sensitive(meta, **ALL_BOXES), example()
    attacked = perturb(model, clean, attack)
    sign = (
        torch.randint(2, clean["image"].shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    noisy = {**clean, "image": (clean["image"] + EPSILON * sign).clamp(0, 255)}
    before, noise, after = (task_loss(model, x) for x in (clean, noisy, attacked))
    assert after > before + 2 * abs(noise - before) and after > 1.02 * before
    change = (attacked["image"] - clean["image"]).abs()
    assert 0.5 * EPSILON < change.max() <= EPSILON + 1e-4
    assert 0 <= attacked["image"].min() and attacked["image"].max() <= 255
    assert attacked["instances"] is clean["instances"]


def test_one_step_by_hand():
    """FGSM moves each pixel by epsilon along the sign of the gradient, clamped to 0..255."""
    model, clean = detector("RetinaNet").eval(), example()
    image = clean["image"].clone().requires_grad_()
    copied = copy.deepcopy(model).train()
    sum(copied([{**clean, "image": image}]).values()).backward()
    expected = (clean["image"] + 4 * image.grad.sign()).clamp(0, 255)
    assert_close(perturb(model, clean, fgsm(4))["image"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("meta", ["RetinaNet", "GeneralizedRCNN"])
def test_the_same_again_whatever_was_drawn_before(meta):
    clean = example()
    images = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = detector(meta, seed=0).eval()
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        images.append(perturb(model, clean, projected_gradient(EPSILON, 2))["image"])
        assert (torch.get_rng_state() == state).all()
    assert (images[0] == images[1]).all()


@pytest.mark.parametrize("meta", FAMILIES)
def test_the_order_does_not_matter(meta):
    model = sensitive(meta)
    examples = make_batch(sizes=((96, 96), (64, 96), (96, 64)))
    forwards, backwards = (
        [perturb(model, x, projected_gradient(EPSILON, 3))["image"] for x in order]
        for order in (examples, examples[::-1])
    )
    for a, b in zip(forwards, backwards[::-1], strict=True):
        assert (a == b).all()


def test_the_detector_is_left_as_it_was():
    model = detector("RetinaNet", MODEL__RETINANET__NORM="BN")
    model.eval()
    model.head.train()  # a mode of its own
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    perturb(model, example(), fgsm(EPSILON))
    assert [m.training for m in model.modules()] == modes
    assert all((before[k] == v).all() for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not hasattr(model, "loss_normalizer")  # stock code makes one when it first trains
    model.loss_normalizer = 50.0
    perturb(model, example(), fgsm(EPSILON))
    assert model.loss_normalizer == 50


def test_the_ranges_of_int8_are_left_as_they_were():
    model = detector("FCOS", MODEL__FCOS__NORM="BN")
    quantize_student(model, config())
    set_rounding(model, True)
    model.train()(make_batch())
    before = {k: v.clone() for k, v in with_ranges(model.eval()).items()}
    assert any(k.endswith("seen") and v == 1 for k, v in before.items())
    perturb(model, example(), projected_gradient(EPSILON, 2))
    assert all((before[k] == v).all() for k, v in with_ranges(model).items())


@pytest.mark.parametrize("layer", [DropPath(0.9), nn.Dropout(0.9)])
def test_nothing_is_dropped(layer):
    model, clean = detector("RetinaNet").eval(), example()
    before = task_loss(model, clean)
    model.head.cls_subnet.append(layer)
    assert task_loss(model, clean) == before


def test_detections_on_attacked_images():
    model, clean = sensitive("RetinaNet"), example()
    attacked = AttackedDetector(model, fgsm(EPSILON))
    assert not attacked.training and AttackedDetector(detector(), fgsm(EPSILON)).training
    with torch.no_grad():
        found = attacked([clean])[0]["instances"]
        expected = model([perturb(model, clean, fgsm(EPSILON))])[0]["instances"]
        plain = model([clean])[0]["instances"]
    assert_close(found.scores, expected.scores)
    assert len(found) and found.scores.tolist() != plain.scores.tolist()


def test_an_image_without_objects_can_be_attacked():
    clean = make_batch(sizes=((96, 96),), boxes=0)[0]
    assert (perturb(detector("GFL").eval(), clean, fgsm(2))["image"] != clean["image"]).any()


def test_an_input_without_objects_listed_is_refused():
    with pytest.raises(ValueError, match="use d2kd.data.labelled_test_data"):
        perturb(detector(), {"image": torch.zeros(3, 64, 64)}, fgsm(2))
