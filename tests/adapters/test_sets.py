"""Sets of every kind of detector: its own detections, with the probabilities of all classes."""

import pytest
import torch
from torch.testing import assert_close

from d2kd import Teacher
from d2kd.adapters.class_map import ClassMap
from d2kd.adapters.own_size import OwnSizeAdapter
from d2kd.adapters.sets import best_first, union, usable
from d2kd.detectors import Predicted
from d2kd.testing import make_batch
from tests.helpers import detector

NEED = frozenset({"sets"})
CASCADE = {"MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
           "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True}  # fmt: skip
DETECTORS = {
    "RetinaNet": ("RetinaNet", {}), "FCOS": ("FCOS", {}),
    "FCOS, product": ("FCOS", {"MODEL__FCOS__SCORE": "product"}), "ATSS": ("ATSS", {}),
    "AutoAssign": ("AutoAssign", {"MODEL__AUTOASSIGN__HARD_LABELS": True}),
    "AutoAssign, joint": ("AutoAssign", {"MODEL__AUTOASSIGN__HARD_LABELS": True,
                                         "MODEL__AUTOASSIGN__SCORE": "joint"}),
    "DDOD": ("DDOD", {}),
    "RepPoints": ("RepPoints", {}),
    "GFL": ("GFL", {}), "GFLv2": ("GFL", {"MODEL__GFL__QUALITY": "DGQP"}),
    "Faster R-CNN": ("GeneralizedRCNN", {"MODEL__MASK_ON": False}),
    "Mask R-CNN": ("GeneralizedRCNN", {}), "Cascade R-CNN": ("GeneralizedRCNN", CASCADE),
}  # fmt: skip


def trained(name, seed=1, classes=3):
    """A detector that is sure of some of its boxes."""
    meta, keys = DETECTORS[name]
    nodes = ("RETINANET", "FCOS", "ATSS", "AUTOASSIGN", "DDOD", "GFL", "REPPOINTS", "ROI_HEADS")
    counts = {f"MODEL__{node}__NUM_CLASSES": classes for node in nodes}
    model = detector(meta, 12, seed, MODEL__FCOS__SCORE_THRESH_TEST=0.05, **counts, **keys)
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.05 * torch.randn_like(x))
        if name in ("DDOD", "RepPoints"):  # whose last layers see less of the image
            model.head.cls_score.bias.add_(2)
    return model


@pytest.mark.parametrize("name", DETECTORS)
def test_a_set_is_what_the_detector_finds(name):
    """Of one class, exactly that; boxes without area, of cells in the padding, are left out."""
    seed = 2 if "AutoAssign" in name else 1  # with 1 two cells have the same score
    model, batch = trained(name, seed, classes=1), make_batch()
    if hasattr(model, "head"):
        model.head.cls_score.bias.data += 2  # surer of what it sees
    sets = Teacher(model)(batch, 32, "BGR", NEED).sets
    for boxes, rows, x in zip(sets.boxes, sets.probabilities[..., 0], model(batch), strict=True):
        theirs = x["instances"]
        theirs = theirs[(theirs.scores > 0.05) & theirs.pred_boxes.nonempty()]
        count = len(theirs)
        assert int((rows > 0).sum()) == count
        assert_close(rows[:count], theirs.scores)
        assert_close(boxes[:count], theirs.pred_boxes.tensor, atol=1e-3, rtol=0)
    assert bool((sets.probabilities > 0).any())


@pytest.mark.parametrize("name", DETECTORS)
def test_every_box_has_all_probabilities(name):
    teacher = Teacher(trained(name))
    sets = teacher(make_batch(), 32, "BGR", NEED).sets
    assert sets.probabilities.shape[2] == 3 and sets.probabilities.dtype == torch.float32
    scores = sets.probabilities.amax(2)
    assert bool((scores.diff(dim=1) <= 0).all()) and bool((scores > 0).any())
    assert bool(((sets.probabilities > 0).sum(2) >= 2)[scores > 0].all())
    exclusive = DETECTORS[name][0] == "GeneralizedRCNN"
    assert sets.exclusive == exclusive and not sets.boxes.requires_grad
    assert not exclusive or bool((sets.probabilities.sum(2) <= 1 + 1e-5).all())
    teacher.adapter.least_score = 0.2
    fewer = teacher(make_batch(), 32, "BGR", NEED).sets.probabilities
    expected = scores[:, : fewer.shape[1]]
    assert_close(fewer.amax(2), expected * (expected >= 0.2))


@pytest.mark.parametrize("name", ["RetinaNet", "Faster R-CNN"])
def test_no_maps_are_kept(name):
    teacher = Teacher(trained(name))
    alone = teacher(make_batch(), 32, "BGR", NEED)
    assert not alone.features and not alone.logits and not alone.anchors
    both = teacher(make_batch(), 32, "BGR", NEED | {"features"})
    assert both.features and torch.equal(both.sets.boxes, alone.sets.boxes)


def test_a_teacher_of_its_own_size():
    """Boxes of the image at twice its size, in px of the image."""
    batch = make_batch([(96, 128)])
    teacher = Teacher(trained("RetinaNet"))
    large = torch.nn.functional.interpolate(
        batch[0]["image"][None], (192, 256), mode="bilinear", antialias=True
    )
    expected = teacher([{"image": large[0]}], 32, "BGR", NEED).sets
    teacher.adapter = OwnSizeAdapter(teacher.adapter, (192, 256), 1)
    found = teacher(batch, 32, "BGR", NEED).sets
    assert_close(found.boxes * 2, expected.boxes, atol=1e-3, rtol=0)
    assert_close(found.probabilities, expected.probabilities, atol=1e-4, rtol=0)


def test_what_is_no_box():
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[
        [-5.0, 2, 20, 30], [3, 3, 3, 9], [40, 1, 50, 9], [nan, 0, 5, 5], [0, 0, inf, 5],
        [1, 1, 9, 9], [2, 2, 9, 9], [0, 0, 5, 5],
    ]])  # fmt: skip
    rows = torch.tensor([[0.5] * 5 + [0.9, 0.1, nan]])[..., None]
    found = usable(Predicted(boxes, rows, False), [(24, 32)], 0.2)
    assert found.boxes.tolist() == [[[1, 1, 9, 9], [0, 2, 20, 24]]]
    assert_close(found.probabilities[0, :, 0], torch.tensor([0.9, 0.5]))
    empty = Predicted(torch.zeros(2, 0, 4), torch.zeros(2, 0, 3), False)
    assert usable(empty, [(24, 32)] * 2, 0.2).boxes.shape == (2, 0, 4)
    assert usable(Predicted(boxes, 0 * rows, False), [(24, 32)], 0.2).boxes.shape == (1, 0, 4)


def test_the_most_certain_come_first_and_equal_ones_stay_in_order():
    rows = torch.tensor([[[0.2], [0.5], [0.5], [0.1]]])
    boxes = torch.arange(16.0).view(1, 4, 4)
    labels = torch.tensor([[True, False, True, False]])
    found = best_first(Predicted(boxes, rows, False, labels), 3)
    assert found.boxes[0, :, 0].tolist() == [4, 8, 0]
    assert found.labels.tolist() == [[False, True, True]]


def test_union():
    """Of two boxes of one class the more certain stays; other classes and images are apart."""
    a = Predicted(torch.tensor([[[0.0, 0, 10, 10]], [[0.0, 0, 10, 10]]]),
                  torch.tensor([[[0.6, 0.1]], [[0.6, 0.1]]]), True)  # fmt: skip
    b = Predicted(torch.tensor([[[0.0, 0, 10, 9]], [[0.0, 0, 10, 9]]]),
                  torch.tensor([[[0.7, 0.0]], [[0.0, 0.9]]]), False,
                  torch.tensor([[True], [True]]), torch.tensor([True, False]))  # fmt: skip
    found = union([a, b], 0.6)
    assert_close(found.probabilities.amax(2), torch.tensor([[0.0, 0.7], [0.6, 0.9]]))
    assert found.labels.tolist() == [[False, True]] * 2 and found.known.all()
    assert found.of_box[0].tolist() == [[True, True], [True, False]]
    both = union([b, b._replace(known=torch.tensor([False, True]))], 0.6)
    assert both.known.tolist() == [True, True]
    assert both.of_box[0].tolist() == [[True, False], [False, True]]
    assert union([a, a], 0.6).of_box is None
    far = b._replace(boxes=b.boxes + torch.tensor([0.0, 5, 0, 5]))
    assert (union([a, far], 0.6).probabilities.amax(2) > 0).all()


@pytest.mark.parametrize(("exclusive", "value"), [(False, 0.5), (True, 0.9)])
def test_several_classes_on_one(exclusive, value):
    """A teacher's car 0.5 and truck 0.4 on the student's vehicle; it knows no person."""
    classes = ClassMap(3, (1, 2), ((0, 1), (2,)))
    sets = Predicted(torch.rand(1, 1, 4), torch.tensor([[[0.5, 0.4, 0.05, 0.02]]]), exclusive)
    found = classes.of_sets(sets)
    assert_close(found.probabilities, torch.tensor([[[0.0, value, 0.05]]]))
    assert found.known.tolist() == [False, True, True]


def test_classes_of_labels():
    sets = Predicted(torch.rand(1, 2, 4), torch.tensor([[[0.0, 0.8], [0.7, 0.0]]]), False,
                     torch.ones(1, 2, dtype=torch.bool))  # fmt: skip
    found = ClassMap(1, (0,), ((0, 1),)).of_sets(sets)
    assert_close(found.probabilities, torch.tensor([[[0.8], [0.7]]]))
    other = ClassMap(1, (0,), ((1,),)).of_sets(sets)
    assert_close(other.probabilities, torch.tensor([[[0.8], [0.0]]]))
