"""A loss that is NaN is reported with whose outputs are: a teacher's, the student's or neither."""

import pytest

from d2kd.engine.blame import find_blame
from d2kd.engine.failures import explained_failures
from d2kd.testing import make_batch
from tests.helpers import detector, pair


def broken(meta="RetinaNet", heads=("PKD", "BCKD"), where="", value=float("nan"), **keys):
    """A distiller after one training forward, with one parameter of teacher or student broken."""
    _, model = pair(meta, heads, **keys)
    side, _, name = where.partition(".")
    if name:
        module = model.teachers[0].detector if side == "teacher" else model.student
        module.get_parameter(name).data.fill_(value)
    batch = make_batch()
    for i, x in enumerate(batch):
        x["file_name"] = f"image{i}.png"
    model.batch = batch
    return model


@pytest.mark.parametrize(("name", "field"), [
    ("backbone.stem.weight", "features of stride 8"),
    ("backbone.downs.1.weight", "features of stride 32"),
    ("head.cls_subnet.0.bias", "logits of stride 8"),
    ("head.bbox_pred.bias", "deltas of stride 8"),
])  # fmt: skip
def test_a_teacher(event_storage, name, field):
    blame = find_blame(broken(where=f"teacher.{name}"))
    assert blame.whose.startswith(f"So are {field} (image image0.png) of teacher 0 (no")
    assert "BASE_LR" not in blame.advice and "d2kd eval" in blame.advice
    blame = find_blame(broken(where=f"student.{name}"))
    assert blame.whose == f"So are the student's {field} (image image0.png). "
    assert "BASE_LR" in blame.advice


def test_two_stages(event_storage):
    heads = "GeneralizedRCNN", ("RoIKD",)
    name = "roi_heads.box_predictor.cls_score.bias"
    teacher, student = (broken(*heads, where=f"{side}.{name}") for side in ("teacher", "student"))
    assert "class logits of regions of teacher 0" in find_blame(teacher).whose
    assert find_blame(student).whose == "So are the student's class logits of regions. "
    rpn = "student.proposal_generator.rpn_head.objectness_logits.bias"
    assert find_blame(broken(*heads, where=rpn)).whose == "So are the student's proposals. "


def test_the_method_itself(event_storage, monkeypatch):
    model = broken()
    assert find_blame(model).whose == ""
    model.weights["PKD"] = float("inf")
    assert find_blame(model).whose.endswith("it is loss_PKD_feat itself. ")
    assert find_blame(model).advice.startswith("Look at DISTILL.PKD.WEIGHT, DISTILL.PKD.NUM_LEVELS")


def test_plain_detectors_and_several_ranks(event_storage, monkeypatch):
    plain = detector()
    assert find_blame(plain).whose == ""
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    assert find_blame(broken(where="student.head.bbox_pred.bias")).whose == ""
    assert "of teacher 0" in find_blame(broken(where="teacher.head.bbox_pred.bias")).whose


def test_the_message(event_storage):
    model = broken(where="teacher.backbone.stem.weight")
    model.teachers[0].weights = "t.pth"
    with pytest.raises(FloatingPointError) as error:
        with explained_failures(7, lambda: "last.pth", model):
            raise FloatingPointError("loss_dict = {'loss_PKD_feat': nan, 'loss_cls': 1.0}")
    no_boxes = [{**x, "image": None} for x in model.batch]
    said = str(error.value)
    model.batch = no_boxes  # computing again fails
    with pytest.raises(FloatingPointError, match="loss_cls became .* Lower SOLVER.BASE_LR"):
        with explained_failures(7, lambda: "last.pth", model):
            raise FloatingPointError("loss_dict = {'loss_cls': nan}")
    assert said.startswith(
        "loss_PKD_feat became infinite or NaN at iteration 7; the last checkpoint is last.pth. So "
        "are features of stride 8 (image image0.png) of teacher 0 (t.pth). Look at that teacher "
    )
