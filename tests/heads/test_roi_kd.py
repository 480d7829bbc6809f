"""RoIKD and MaskKD on real two-stage detectors."""

import pytest
import torch
from torch.testing import assert_close

from d2kd import build_adapter
from d2kd.heads import MaskKD, RoIKD
from d2kd.losses import decoupled_kl, mask_divergence, relation_losses, softened_kl
from d2kd.testing import make_batch
from tests.helpers import detector, distill

CASCADE = {"MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
           "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True}  # fmt: skip
HEADS = ("RoIKD", "MaskKD")


def model_of(heads=HEADS, student=None, teacher=None, options=None):
    meta = "GeneralizedRCNN"
    student = detector(meta, **(student or {}))
    teacher = detector(meta, 12, seed=1, **(teacher or {}))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return student, distill(student, [teacher], heads, options=options).train()


def outputs(batch=None, **keys):
    _, model = model_of(**keys)
    torch.manual_seed(0)
    student = model.run_student(batch or make_batch())
    return model, student, model.run_teachers(batch or make_batch(), student)[0]


@pytest.mark.parametrize("loss", ["KD", "DKD", "DIST"])
@pytest.mark.parametrize("student", [{}, CASCADE], ids=["faster", "cascade"])
def test_class_term(loss, student):
    options = {"RoIKD": {"LOSS": loss, "TEMPERATURE": 2.0}}
    model, out, teacher = outputs(heads=("RoIKD",), student=student, options=options)
    expected = []
    for mine, other in zip(out.roi, teacher.roi, strict=True):
        labels = torch.cat([x.gt_classes for x in mine.proposals])
        assert int((labels == 3).sum()) > 0
        expected.append({
            "KD": lambda a, b, y: softened_kl(a, b, 2.0).mean(),
            "DKD": lambda a, b, y: decoupled_kl(a, b, y, 1.0, 0.25, 2.0).mean(),
            "DIST": lambda a, b, y: relation_losses(a, b, 2.0).sum(),
        }[loss](mine.logits, other.logits, labels))  # fmt: skip
    assert len(expected) == (3 if student else 1)
    found = model.heads["RoIKD"](out, teacher)["cls"]
    assert_close(found, torch.stack(expected).mean())
    assert float(found) > 0


@pytest.mark.parametrize("agnostic", [(False, False), (True, True), (True, False)])
def test_mask_term_takes_the_channel_of_the_class(agnostic):
    key = "MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK"
    student, teacher = ({key: value} for value in agnostic)
    model, out, answer = outputs(heads=("MaskKD",), student=student, teacher=teacher)
    classes = torch.cat([x.gt_classes for x in out.masks.proposals])
    channels = [
        torch.stack(
            [m[0 if len(m) == 1 else c] for m, c in zip(x.masks.logits, classes, strict=True)]
        )
        for x in (out, answer)
    ]
    assert len(classes) > 0 and int(classes.max()) < 3
    assert_close(model.heads["MaskKD"](out, answer)["mask"], mask_divergence(*channels).mean())


@pytest.mark.parametrize("student", [{}, CASCADE], ids=["mask", "cascade mask"])
@pytest.mark.parametrize("boxes", [4, 0])
def test_losses_and_gradients_are_finite(student, boxes):
    net, model = model_of(student=student)
    losses = model(make_batch(boxes=boxes))
    assert all(bool(v.isfinite()) for v in losses.values())
    if boxes == 0:
        assert losses["loss_MaskKD_mask"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_equal_detectors_give_zero():
    net = detector("GeneralizedRCNN")
    twin = detector("GeneralizedRCNN")
    losses = distill(net, [twin], HEADS).train()(make_batch())
    for name in ("loss_RoIKD_cls", "loss_MaskKD_mask"):
        assert_close(losses[name].item(), 0.0, atol=1e-6, rtol=0)


def test_bfloat16_losses_are_float():
    _, model = model_of()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(make_batch())
    for name in ("loss_RoIKD_cls", "loss_MaskKD_mask"):
        assert losses[name].dtype == torch.float32 and bool(losses[name].isfinite())


def test_a_cascade_and_a_single_stage_teach_each_other():
    for student, teacher in ((CASCADE, {}), ({}, CASCADE)):
        _, model = model_of(student=student, teacher=teacher)
        losses = model(make_batch())
        assert float(losses["loss_RoIKD_cls"]) > 0 and float(losses["loss_MaskKD_mask"]) > 0


def test_errors():
    plain = {"MODEL__MASK_ON": False}
    with pytest.raises(ValueError, match=r"MaskKD needs masks; student GeneralizedRCNN provides"):
        model_of(student=plain)
    with pytest.raises(ValueError, match=r"MaskKD needs masks; teacher GeneralizedRCNN provides"):
        model_of(teacher=plain)
    with pytest.raises(ValueError, match="RoIKD needs roi; student RetinaNet"):
        distill(detector(), [detector("GeneralizedRCNN")], ("RoIKD",))
    with pytest.raises(ValueError, match="student has 2 classes and the teacher 3"):
        model_of(student={"MODEL__ROI_HEADS__NUM_CLASSES": 2})
    spec = build_adapter(detector("GeneralizedRCNN")).spec()
    with pytest.raises(ValueError, match="DISTILL.RoIKD.LOSS"):
        RoIKD(spec, spec, loss="CE")
    with pytest.raises(ValueError, match="DISTILL.MaskKD.TEMPERATURE must be above 0"):
        MaskKD(spec, spec, temperature=0.0)
