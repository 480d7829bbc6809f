"""DISTILL.ASSIGN_WITH: objects of a student that are assigned by what its teacher predicts."""

import copy

import pytest
import torch
from torch.testing import assert_close

from d2kd import Distiller, Teacher, build_adapter
from d2kd.errors import ConfigError
from d2kd.heads.pgd import PGD
from d2kd.heads.pkd import PKD
from d2kd.testing import make_batch
from tests.detectors.test_ddod import build
from tests.helpers import detector


def distiller(student, *teachers, head=PGD, **options):
    """Assigned by the first teacher, which one head reads."""
    read = [Teacher(x) for x in teachers]
    specs = build_adapter(student).spec(), (build_adapter(teachers[0]).spec() if teachers else None)
    heads = {head.__name__: (head(*specs), 1.0, 0)} if teachers else {}
    keys = {"assign_with": "teacher", **options}
    return Distiller(student=student, teachers=read, heads=heads, **keys).train()


@pytest.mark.parametrize("head", [PGD, PKD])
def test_losses_are_those_of_the_teachers_assignment(head):
    """PKD reads no predictions of the teacher, which are asked for all the same."""
    student, teacher, batch = build(), build(seed=1), make_batch()
    other = copy.deepcopy(student)
    model = distiller(student, teacher, head=head)
    seen = model.run_student(batch)
    outputs = model.run_teachers(batch, seen)
    model.supervise(batch, seen, outputs)
    theirs = outputs[0]
    anchors, logits, deltas, quality = (
        list(x.values()) for x in (seen.anchors, seen.logits, seen.deltas, seen.quality)
    )
    maps = [list(x.values()) for x in (theirs.logits, theirs.deltas)]
    labels, boxes = other.label_anchors(anchors, seen.gt, *maps)
    expected = other.losses(anchors, logits, labels, deltas, boxes, quality)
    assert_close(seen.losses, expected, rtol=0, atol=0)
    assert torch.equal(seen.labels, torch.stack(labels)[..., 0])
    own = torch.stack(other.label_anchors(anchors, seen.gt, logits, deltas)[0])[..., 0]
    assert not torch.equal(seen.labels, own)
    assert torch.equal(student.level_counts, other.level_counts)


def test_a_teacher_like_the_student_assigns_as_it_does_itself():
    batch, losses = make_batch(), []
    for choice in ("own", "teacher"):
        student = build()
        losses.append(distiller(student, copy.deepcopy(student), assign_with=choice)(batch))
    assert losses[0].keys() == losses[1].keys()
    assert_close(*losses, rtol=0, atol=0)


def test_images_without_labels_count_nothing():
    student, batch = build(), make_batch()
    model = distiller(student, build(seed=1))
    losses = model([{**x, "unlabelled": True} for x in batch])
    assert all(losses[name] == 0 for name in ("loss_cls", "loss_box_reg", "loss_quality"))
    assert losses["loss_PGD_cls"] > 0


def test_after_the_last_distilled_iteration_the_student_assigns():
    batch, losses = make_batch(), []
    for choice in ("own", "teacher"):
        model = distiller(build(), build(seed=1), assign_with=choice)
        model.scale = 0.0
        losses.append(model(batch))
    assert_close(*losses, rtol=0, atol=0)


def larger_anchors(detector):
    for anchors in detector.anchor_generator.cell_anchors:
        anchors *= 2
    return detector


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: distiller(*[detector("ATSS", MODEL__ATSS__QUALITY="iou") for _ in range(2)]),
         "ASSIGN_WITH teacher: the student is ATSS with 3 .*a teacher cannot assign: only DDOD's"),
        (lambda: distiller(build(), detector("ATSS"), head=PKD), "teacher 0 is ATSS with 3"),
        (lambda: distiller(build()), "teacher 0 is not there"),
        (lambda: distiller(build(), build(BBOX_REG_WEIGHTS=(1.0, 1.0, 1.0, 1.0))),
         "weighed by 10, 10, 5, 5, teacher 0 is .* weighed by 1, 1, 1, 1"),
        (lambda: distiller(build(), larger_anchors(build())), "anchors of 32x32, .* of 64x64"),
    ],
)  # fmt: skip
def test_what_cannot_assign_is_refused(make, line):
    with pytest.raises(ConfigError, match=line):
        make()
