"""AutoAssign for methods: no labels unless they are asked for, class scores without objectness."""

import pytest
import torch

from d2kd import build_adapter
from d2kd.build import _warn_of_points
from d2kd.config.pairs import default_methods
from d2kd.detectors import AutoAssign
from d2kd.heads import PGD
from d2kd.testing import make_batch, tiny_cfg
from tests.helpers import detector, distill, pair

LABELS = {"MODEL__AUTOASSIGN__HARD_LABELS": True}


def outputs(**keys):
    model = detector("AutoAssign", **keys).train()
    torch.nn.init.normal_(model.head.ctrness.weight, std=1.0)
    adapter, batch = build_adapter(model), make_batch()
    images = adapter.preprocess(batch, 32)
    gt = [x["instances"] for x in batch]
    return adapter, adapter(images, gt, adapter.provides)


def test_spec():
    spec = build_adapter(detector("AutoAssign")).spec()
    assert (spec.box_coding, spec.quality) == ("distance", "objectness")
    assert spec.points == "DefaultAnchorGenerator at 0" and spec.num_anchors == 1


@pytest.mark.parametrize("method", ["BCKD", "CrossKD", "LD", "Parallel", "SetKD"])
def test_methods_that_read_labels_are_refused_by_name(method):
    with pytest.raises(ValueError, match=f"{method} needs .*labels.*; student AutoAssign") as error:
        pair("AutoAssign", (method,))
    assert "(and labels with MODEL.AUTOASSIGN.HARD_LABELS True" in str(error.value)
    others = str(error.value).rpartition("one of: ")[2]
    assert "PGD, PKD" in others and method not in others


@pytest.mark.parametrize("method", ["LD", "Parallel"])
def test_methods_of_distributions_are_refused_with_labels_too(method):
    with pytest.raises(ValueError, match=f"{method} needs distributions"):
        pair("AutoAssign", (method,), **LABELS)


@pytest.mark.parametrize("method", ["BCKD", "CrossKD", "SetKD"])
def test_methods_that_read_labels_work_with_them(method):
    student, model = pair("AutoAssign", (method,), 8, {"CrossKD": {"BLOCK": 1}}, **LABELS)
    losses = model(make_batch())
    terms = {k: v for k, v in losses.items() if method in k}
    assert len(terms) == 2 and sum(terms.values()) > 0
    assert {k for k in losses if k not in terms} == {"loss_pos", "loss_neg", "loss_center"}


def test_a_teacher_needs_no_labels():
    student = detector("AutoAssign", **LABELS)
    model = distill(student, [detector("AutoAssign", seed=1)], ("BCKD",)).train()
    assert model(make_batch())["loss_BCKD_cls"] > 0


def test_labels_are_there_with_the_option_alone():
    _, out = outputs()
    assert not hasattr(out, "labels") and not hasattr(out, "matched_boxes")
    adapter, out = outputs(**LABELS)
    gt = [x["instances"] for x in make_batch()]
    labels, boxes = adapter.detector.label_anchors(list(out.anchors.values()), gt)
    assert torch.equal(out.labels, torch.stack(labels))
    assert torch.equal(out.matched_boxes, torch.stack(boxes))
    assert 0 < int((out.labels < 3).sum()) < out.labels.numel()


@pytest.mark.parametrize("score", ["product", "joint"])
def test_scores_leave_the_objectness_out(score):
    _, out = outputs(MODEL__AUTOASSIGN__SCORE=score)
    for stride, x in out.scores.items():
        assert torch.equal(x, out.logits[stride].detach().sigmoid())


def test_what_pgd_takes():
    """Distances: 30 locations; boxes are not clipped, points are corners of the cells."""
    spec = build_adapter(detector("AutoAssign")).spec()
    head = PGD(spec, spec, compat=("swapped_axes",))
    assert head.top_k == 30 and head.alpha == 0.04 and head.swap_axes
    adapter, out = outputs()
    decoded = adapter.decode(out)
    assert out.anchors[16].get_centers()[1].tolist() == [16, 0]
    sides = out.deltas[16].relu() * 16
    assert torch.equal(decoded[16][..., :2], out.anchors[16].get_centers() - sides[..., :2])
    assert decoded[8].min() < 0


def test_what_is_chosen_without_a_word():
    cfg, teacher = tiny_cfg("AutoAssign"), tiny_cfg("AutoAssign")
    cfg.DISTILL.STUDENT = "AutoAssign"
    assert default_methods(cfg, teacher) == ("PKD",)
    cfg.MODEL.AUTOASSIGN.HARD_LABELS = True
    teacher.MODEL.ANCHOR_GENERATOR.SIZES = [[8 * 2**n] for n in range(3, 8)]  # not read
    assert default_methods(cfg, teacher) == ("CrossKD", "PKD")


@pytest.mark.parametrize(("meta", "of", "advice"), [
    ("AutoAssign", "FCOS", "AutoAssign's cannot move; take another teacher, or PKD."),
    ("ATSS", "FCOS", "set the student's MODEL.ANCHOR_GENERATOR.NAME DefaultAnchorGenerator and "
     "OFFSET 0.5."),
    ("FCOS", "ATSS", "FCOS's cannot move; take another teacher, or PKD."),
])  # fmt: skip
def test_what_is_advised_where_cells_lie_elsewhere(meta, of, advice, caplog):
    student, teacher = build_adapter(detector(meta)), build_adapter(detector(of))
    head = PGD(student.spec(), teacher.spec())
    _warn_of_points("PGD", head, student, teacher)
    assert caplog.messages[-1].endswith(advice)


def test_the_prior_is_inherited_but_not_by_other_classes():
    from d2kd.teachers.inherit import initialize_from_teacher

    student, teacher = detector("AutoAssign"), detector("AutoAssign", seed=1)
    torch.nn.init.normal_(teacher.center_prior.mean)
    teachers = distill(student, [teacher], ("PKD",)).teachers
    initialize_from_teacher(student, teachers, "neck+head", same_classes=False)
    assert bool((student.center_prior.mean == 0).all())
    initialize_from_teacher(student, teachers, "neck+head")
    assert torch.equal(student.center_prior.mean, teacher.center_prior.mean)


def test_an_overridden_step_is_refused():
    class Mine(AutoAssign):
        def forward_training(self, *args):
            return {}

    with pytest.raises(TypeError, match=r"Mine overrides AutoAssign.forward_training\(\)"):
        build_adapter(Mine(tiny_cfg("AutoAssign")))
