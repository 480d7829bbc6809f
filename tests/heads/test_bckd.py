"""BCKD as a head: masks, normaliser, gate, with the specification's toy case (two locations)."""

import pytest
import torch
from detectron2.structures import Boxes
from torch.testing import assert_close

from d2kd import DetectorOutput, DetectorSpec
from d2kd.heads import BCKD

SPEC = DetectorSpec(name="X", features={}, num_classes=2)


class Distances:
    """Decodes (l, t, r, b) distances in strides of 1 px around the centre of the anchor."""

    def decode(self, output):
        decoded = {}
        for stride, deltas in output.deltas.items():
            centres = output.anchors[stride].get_centers()
            decoded[stride] = torch.cat([centres - deltas[..., :2], centres + deltas[..., 2:]], -1)
        return decoded


def output(logits, distances, labels, valid=(True, True), num_pos=1.0):
    logits = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    deltas = torch.tensor([distances], dtype=torch.float64, requires_grad=True)
    anchors = Boxes(torch.tensor([[9.5, 9.5, 10.5, 10.5], [10.5, 9.5, 11.5, 10.5]]))
    return DetectorOutput(
        images=None, adapter=Distances(), features={}, logits={8: logits}, deltas={8: deltas},
        anchors={8: anchors}, labels=torch.tensor([labels]), valid={8: torch.tensor([list(valid)])},
        num_pos=torch.tensor(num_pos, dtype=torch.float64),
    )  # fmt: skip


def toy(labels=(0, 2), **keys):
    student = output([[0, -2], [-1, -3]], [[2, 2, 2, 2], [1, 1, 1, 1]], labels, **keys)
    teacher = output([[2, -2], [-3, -3]], [[3, 3, 3, 3], [1, 2, 1, 2]], labels, **keys)
    return student, teacher


def check(losses, cls, loc):
    assert_close(losses["cls"].item(), cls, atol=1e-6, rtol=0)
    assert_close(losses["loc"].item(), loc, atol=1e-6, rtol=0)


def test_two_locations():
    check(BCKD(SPEC, SPEC)(*toy()), 0.343846, 1.289247)


@pytest.mark.parametrize(("labels", "valid"), [((0, 2), (True, False)), ((0, -1), (True, True))],
                         ids=["padding", "ignored"])  # fmt: skip
def test_padding_and_ignored_anchors_weigh_nothing(labels, valid):
    student, teacher = toy(labels, valid=valid)
    losses = BCKD(SPEC, SPEC)(student, teacher)
    check(losses, 0.263948, 0.846216)
    sum(losses.values()).backward()
    assert student.logits[8].grad[0, 1].abs().sum() == 0
    assert student.deltas[8].grad[0, 1].abs().sum() == 0
    assert student.deltas[8].grad[0, 0].abs().sum() > 0


def test_normaliser():
    check(BCKD(SPEC, SPEC)(*toy(num_pos=4.0)), 0.343846 / 4, 1.289247 / 4)


def test_gate():
    check(BCKD(SPEC, SPEC, gate="official")(*toy()), 0.343846, 1.289247)
    check(BCKD(SPEC, SPEC, gate="official")(*toy(labels=(2, 2))), 0.0, 0.0)
    check(BCKD(SPEC, SPEC, gate="always")(*toy(labels=(2, 2))), 0.343846, 1.289247)


def test_giou_and_iou_differ_on_boxes_that_stick_out():
    student, teacher = toy()
    teacher.deltas[8].data[0, 0] = torch.tensor([0.0, 0.0, 4.0, 4.0])
    student.labels[:] = torch.tensor([[0, -1]])
    gap = 0.380797
    giou = BCKD(SPEC, SPEC)(student, teacher)["loc"]
    iou = BCKD(SPEC, SPEC, iou="iou")(student, teacher)["loc"]
    assert_close(giou.item(), 4 * gap * 1.079365, atol=1e-5, rtol=0)
    assert_close(iou.item(), 4 * gap * 0.857143, atol=1e-5, rtol=0)


def test_terms_of_weight_zero_are_left_out():
    assert set(BCKD(SPEC, SPEC, loc_weight=0.0)(*toy())) == {"cls"}
    assert set(BCKD(SPEC, SPEC, cls_weight=0.0)(*toy())) == {"loc"}


def test_localization_weight_is_detached():
    student, teacher = toy()
    BCKD(SPEC, SPEC, cls_weight=0.0)(student, teacher)["loc"].backward()
    assert student.logits[8].grad is None
    assert teacher.deltas[8].grad is None


@pytest.mark.parametrize(("keys", "match"), [
    ({"cls_weight": -1.0}, "DISTILL.BCKD.CLS_WEIGHT"), ({"loc_weight": -0.1}, "LOC_WEIGHT"),
    ({"iou": "diou"}, "DISTILL.BCKD.IOU"), ({"gate": "never"}, "DISTILL.BCKD.GATE"),
])  # fmt: skip
def test_bad_options(keys, match):
    with pytest.raises(ValueError, match=match):
        BCKD(SPEC, SPEC, **keys)
