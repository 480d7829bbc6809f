"""What holds for every dense method on every dense detector."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.testing import make_batch
from tests.helpers import pair

PAIRS = [
    (head, meta)
    for head in ("BCKD", "CrossKD", "LD", "PGD", "Parallel")
    for meta in ("RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints")
    if head not in ("LD", "Parallel") or meta == "GFL"
]


def model_of(head, meta):
    options = {"CrossKD": {"BLOCK": 1}, "LD": {"CLS_WEIGHT": 1.0}}
    keys = {"MODEL__AUTOASSIGN__HARD_LABELS": True}
    if head == "Parallel":
        keys["MODEL__GFL__QUALITY"] = "SDGQP"
    student, model = pair(meta, (head,), 8, options, **keys)
    return student, model


def terms(losses, head):
    return {k: v for k, v in losses.items() if k.startswith(f"loss_{head}_")}


@pytest.mark.parametrize(("head", "meta"), PAIRS)
def test_bfloat16_losses_are_float_and_near(head, meta):
    _, model = model_of(head, meta)
    exact = terms(model(make_batch()), head)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = terms(model(make_batch()), head)
    assert mixed and {v.dtype for v in mixed.values()} == {torch.float32}
    for name, value in mixed.items():
        assert_close(value, exact[name], atol=0.05, rtol=0.1)


@pytest.mark.parametrize(("head", "meta"), PAIRS)
def test_images_without_objects(head, meta):
    student, model = model_of(head, meta)
    losses = model(make_batch(boxes=0))
    assert all(bool(v.isfinite()) for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in student.parameters())


@pytest.mark.parametrize("head", ["BCKD", "CrossKD", "PGD"])
def test_boxes_of_size_zero(head):
    """FCOS's ReLU makes distances of zero on both sides."""
    student, model = model_of(head, "FCOS")
    for detector in (student, model.teachers[0].detector):
        torch.nn.init.constant_(detector.head.bbox_pred.bias, -100)
    losses = model(make_batch())
    sum(losses.values()).backward()
    assert all(bool(v.isfinite()) for v in losses.values())
    assert all(bool(p.grad.isfinite().all()) for p in student.parameters())


COMBINATIONS = [("BCKD", "PKD"), ("CrossKD", "PKD"), ("LD", "PKD", "CrossKD"), ("LD", "PGD")]


@pytest.mark.parametrize("heads", COMBINATIONS)
def test_methods_combine_under_names_of_their_own(heads):
    _, model = pair("GFL", heads, 8, {"CrossKD": {"BLOCK": 1}})
    losses = model(make_batch())
    assert {name.split("_")[1] for name in losses} >= set(heads)
    assert all(float(v) > 0 for name, v in losses.items() if name.split("_")[1] in heads)
