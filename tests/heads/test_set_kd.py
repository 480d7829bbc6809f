"""SetKD: the toy cases, edge cases and invariances, on points whose boxes are given."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close

from d2kd import DetectorOutput, DetectorSpec
from d2kd.adapters import RoIOutput
from d2kd.adapters.sets import union
from d2kd.detectors import Predicted
from d2kd.heads import SetKD
from d2kd.heads.taught_set import taught_set
from d2kd.losses import quality_focal_loss


def tensor(*values):
    return torch.tensor(values)


def near(found, *expected):
    found = found.detach()
    assert_close(found, torch.tensor(expected).view(found.shape), atol=1.5e-6, rtol=0)


def spec(dense=True, stages=1, **keys):
    features = {8: ShapeSpec(channels=4, stride=8)}
    own = {"num_anchors": 1} if dense else {"num_stages": stages}
    return DetectorSpec("X", features, 2, **own, **keys)


def head(dense=True, coding="anchor_delta", stages=1, **options):
    options = {"max_boxes": 4, **options}
    return SetKD(spec(dense, stages, box_coding=coding), spec(), **options)


def a_set(boxes, rows, labels=None, known=None, images=1):
    boxes, rows = (torch.tensor(x)[None].repeat(images, 1, 1) for x in (boxes, rows))
    return Predicted(boxes, rows, False, labels, known)


BOXES = [[0.0, 0, 8, 8], [16.0, 16, 24, 24]]
ROWS = [[0.8, 0.1], [0.05, 0.2]]  # taught, ignored
OTHER = 32.0, 32, 40, 40  # of points whose box does not matter
POINTS = [[1.0, 0, 9, 8], [16.0, 16, 24, 24], list(OTHER), list(OTHER)]
LOGITS = [[0.0, -2], [1.0, 1], [-1.0, 0.5], [3.0, 3]]
NOTHING = Instances(
    (64, 64), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long)
)
LABELS = [0, 2, 2, 1]  # the fourth is labelled as an object
PLACES = [0, 1, -1, -1]


class Student(SimpleNamespace):
    """Four cells, whose assigner finds what is where by the corners of the boxes."""

    def __init__(self, images=1, places=PLACES, labels=LABELS, valid=True, quality=None):
        leaf = lambda x: torch.tensor(x)[None].repeat(images, 1, 1).requires_grad_()  # noqa: E731
        self.z, self.boxes, self.places = leaf(LOGITS), leaf(POINTS), places
        adapter = SimpleNamespace(assign=self.assign, decode=lambda output: {8: self.boxes})
        self.output = DetectorOutput(
            None, adapter, {}, logits={8: self.z}, labels=torch.tensor([labels] * images),
            valid={8: torch.full((images, 4), valid)}, quality=quality or {},
            gt=[NOTHING] * images,
        )  # fmt: skip

    def assign(self, output, boxes, classes):
        """`places` say which of BOXES a point lies in."""
        wanted = torch.tensor(BOXES)[torch.tensor(self.places).clamp(min=0)]
        same = (wanted[None, :, None] == boxes[:, None]).all(-1)
        found = same.float().argmax(-1) if boxes.shape[1] else torch.zeros(len(boxes), 4).long()
        return [found.where(same.any(-1) & (torch.tensor(self.places) >= 0),
                            torch.tensor(self.places).clamp(max=-1))]  # fmt: skip


def run(head, student, sets):
    losses = head(student.output, SimpleNamespace(sets=sets))
    grads = {
        name: torch.autograd.grad(x, [student.z, student.boxes], retain_graph=True,
                                  allow_unused=True)
        for name, x in losses.items()
    }  # fmt: skip
    return losses, grads


@pytest.mark.parametrize(("coding", "known", "value", "first", "third"), [
    ("anchor_delta", None, 0.462573, (-0.130972, 0.001325), (0.052581, 0.526152)),
    ("distribution", None, 0.410909, (-0.044185, 0.002528), (0.052581, 0.526152)),
    ("anchor_delta", tensor(True, False), 0.085041, (-0.130972, 0), (0.052581, 0)),
])  # fmt: skip
def test_cells(coding, known, value, first, third):
    student = Student()
    rows = ROWS if known is None else [[0.8, 0.0], [0.2, 0.0]]
    losses, grads = run(head(coding=coding), student, a_set(BOXES, rows, known=known))
    near(losses["cls"], value)
    near(grads["cls"][0][0], *first, 0, 0, *third, 0, 0)
    near(losses["box"], 0.177778)
    near(grads["box"][1][0, 0], 0.088889, 0, 0.069136, 0)
    assert not grads["box"][1][0, 1:].any() and grads["cls"][1] is None


def test_certainty_counts_points():
    student = Student(places=[0, 0, 0, -1])
    losses, _ = run(head(box_weight=0.0), student, a_set(BOXES[:1], ROWS[:1]))
    y = torch.tensor([0.8, 0.1]).expand(3, 2)
    expected = quality_focal_loss(student.z[0, :3], y).sum()
    assert_close(losses["cls"], expected / 2.4)


def test_joint_scores():
    """GFLv2's score is the product of both probabilities; a sure quality changes nothing."""
    quality = {8: torch.full((1, 4, 1), 60.0)}
    student = Student(quality=quality)
    losses, _ = run(head(coding="distribution"), student, a_set(BOXES, ROWS))
    near(losses["cls"], 0.410909)
    quality = {8: torch.zeros(1, 4, 1)}
    other, _ = run(head(coding="distribution"), Student(quality=quality), a_set(BOXES, ROWS))
    assert not torch.isclose(losses["cls"], other["cls"], rtol=0.1)
    plain, _ = run(head(), Student(quality=quality), a_set(BOXES, ROWS))
    near(plain["cls"], 0.462573)  # centerness has no say


def test_labels_alone():
    """One class and its score: the target is the score in its column, and 0 in the others."""
    sets = a_set(BOXES[:1], [[0.8, 0.0]], labels=torch.tensor([[True]]))
    losses, _ = run(head(box_weight=0.0), Student(), sets)
    soft, _ = run(head(box_weight=0.0), Student(), sets._replace(labels=None))
    assert torch.equal(losses["cls"], soft["cls"])


@pytest.mark.parametrize("boxes", [0, 1, 2])
def test_nothing_is_taught(boxes):
    """Every valid point without a label is background, and Z is 1."""
    rows = [[0.05, 0.02], [0.09, 0.01]][:boxes]
    sets = Predicted(torch.tensor(BOXES[:boxes]).view(1, -1, 4),
                     torch.tensor(rows).view(1, -1, 2), False)  # fmt: skip
    student = Student()
    losses, grads = run(head(), student, sets)
    p = student.z.detach()[0].sigmoid()
    near(losses["cls"], (p.square() * -(1 - p).log())[[1, 2]].sum().item())
    assert losses["box"] == 0 and not grads["box"][1].any()
    assert not grads["cls"][0][0, [0, 3]].any()  # both are labelled


def test_all_are_ignored():
    sets = a_set(BOXES, [[0.2, 0.1], [0.05, 0.2]])
    losses, grads = run(head(), Student(), sets)
    near(losses["cls"], 0.400069)
    assert losses["box"] == 0 and not grads["cls"][0][0, [0, 1, 3]].any()
    losses, _ = run(head(score=0.1), Student(), sets)  # none is ignored then
    assert losses["box"] > 0


def test_padding_and_points_that_take_no_part():
    losses, _ = run(head(), Student(valid=False), a_set(BOXES, ROWS))
    assert losses["cls"] == losses["box"] == 0
    losses, grads = run(head(), Student(places=[0, 1, -2, -1]), a_set(BOXES, ROWS))
    near(losses["cls"], 0.462573 - 0.400069)
    assert not grads["cls"][0][0, 1:].any()


def test_invariances():
    expected, _ = run(head(), Student(), a_set(BOXES, ROWS))
    for sets in (
        a_set(BOXES[::-1], ROWS[::-1]),
        a_set([*BOXES, [0.0, 0, 8, 8], list(OTHER)], [*ROWS, [0.02, 0.09], [0.0, 0.0]]),
        a_set([BOXES[0], *BOXES], [ROWS[0], *ROWS]),
    ):
        losses, _ = run(head(), Student(), sets)
        assert_close(losses, expected)
    many, _ = run(head(), Student(places=[0, 0, 0, -1]), a_set(BOXES, ROWS))
    student = Student(images=2, places=[0, 0, 0, -1])
    twice, _ = run(head(), student, a_set(BOXES, ROWS, images=2))
    assert_close(twice, many)


def test_the_most_certain_boxes():
    losses, _ = run(head(max_boxes=1), Student(), a_set(BOXES, ROWS))
    second = Student(places=[0, -1, -1, -1])
    expected, _ = run(head(), second, a_set(BOXES[:1], ROWS[:1]))
    assert_close(losses, expected)


def test_images_of_unlike_numbers_of_boxes():
    """The one without a box has background alone; no other changes."""
    boxes, rows = torch.tensor([BOXES, [[0.0] * 4] * 2]), torch.tensor([ROWS, [[0.0] * 2] * 2])
    student = Student(images=2)
    losses, grads = run(head(), student, Predicted(boxes, rows, False))
    one, _ = run(head(), Student(), a_set(BOXES, ROWS))
    nothing, _ = run(head(), Student(), a_set([], [])._replace(
        boxes=torch.zeros(1, 0, 4), probabilities=torch.zeros(1, 0, 2)))  # fmt: skip
    assert_close(losses["cls"], one["cls"] + nothing["cls"])
    assert_close(losses["box"], one["box"])


TWO = [[0.0, 0, 8, 8], [8.0, 8, 16, 16]]


def regions(logits, places, labels, rows, **options):
    """Losses and gradients of proposals of one image, whose boxes are those of the set."""
    z = torch.tensor(logits, requires_grad=True)
    count = len(places)
    proposals = Instances((64, 64), proposal_boxes=Boxes(torch.zeros(count, 4)),
                          gt_classes=torch.tensor(labels))  # fmt: skip
    boxes = torch.tensor(TWO)[: len(rows)]
    decoded = torch.tensor([[[1.0, 0, 9, 8], [0.0, 0, 1, 1]]] * count, requires_grad=True)
    adapter = SimpleNamespace(
        assign=lambda output, boxes, classes: [torch.tensor(places)],
        decode_regions=lambda stage, index: decoded[:1].expand(len(stage.logits), -1, -1),
        regions_at=lambda output, boxes: RoIOutput(z[:1].expand(boxes.shape[1], -1), None, []),
    )
    labels, known = options.pop("of_label", None), options.pop("known", None)
    sets = rows
    if not isinstance(rows, Predicted):
        sets = Predicted(boxes[None], torch.tensor(rows)[None], False, labels, known)
    student = DetectorOutput(None, adapter, {}, gt=[NOTHING])
    student.roi = [RoIOutput(z, decoded, [proposals])]
    losses = head(dense=False, **options)(student, SimpleNamespace(sets=sets))
    (grad,) = torch.autograd.grad(losses["cls"], z)
    return losses, grad


THREE = [[1.0, 0, 0], [0.0, 1, 0], [0.0, 0, 2]]


def test_regions():
    """The second box is of a label alone and stands first, as it is the more certain."""
    of_label = torch.tensor([[False, True]])
    losses, grad = regions(
        THREE, [1, 0, -1], [2, 2, 2], [[0.6, 0.1], [0.7, 0.0]], of_label=of_label
    )
    near(losses["cls"], 0.843334)
    near(grad, -0.008846, 0.041460, -0.032614, -0.204311, 0.149364, 0.054948,
         0.039447, 0.039447, -0.078894)  # fmt: skip
    near(losses["box"], (0.6 * (1 - 7 / 9) + 0.7 * (1 + 112 / 240)) / 1.3)


@pytest.mark.parametrize(("row", "value", "gradient"), [
    ([0.6, 0.1], 0.951445, (-0.023883, 0.111942, -0.088058)),
    ([0.9, 0.4], 0.859137, (-0.116191, -0.095751, 0.211942)),
    ([0.5, 0.2], 1.051445, (0.076117, 0.011942, -0.088058)),
])  # fmt: skip
def test_one_region(row, value, gradient):
    losses, grad = regions([[1.0, 0, 0]], [0], [2], [row])
    near(losses["cls"], value)
    near(grad, *gradient)
    near(losses["box"], row[0] * (1 - 7 / 9))


def test_regions_that_take_no_part():
    rows = [[0.6, 0.1], [0.2, 0.1]]
    for places, labels in (([-1], [0]), ([1], [2]), ([-2], [2])):  # labelled, ignored, unmatched
        losses, grad = regions([[1.0, 0, 0]], places, labels, rows)
        assert losses["cls"] == losses["box"] == 0 and not grad.any()
    known = torch.tensor([True, False])
    rows = [[0.6, 0.0]]
    losses, grad = regions([[1.0, 0, 0]], [0], [1], rows, known=known)
    assert losses["cls"] == 0 and not grad.any()
    losses, grad = regions([[1.0, 5, 0]], [0], [0], rows, known=known)
    z = torch.tensor([1.0, 0]).log_softmax(0)
    assert_close(losses["cls"], -(torch.tensor([0.6, 0.4]) * z).sum())
    assert grad[0, 1] == 0


def test_taught_boxes_as_proposals():
    losses, _ = regions([[1.0, 0, 0]], [-1], [2], [[0.6, 0.1], [0.2, 0.1]], points="both")
    near(losses["cls"], (1.551445 + 0.951445) / 2)
    near(losses["box"], 0.6 * (1 - 7 / 9))


def test_one_term():
    assert set(head(cls_weight=0.0)(Student().output, SimpleNamespace(
        sets=a_set(BOXES, ROWS)))) == {"box"}  # fmt: skip
    losses, _ = regions([[1.0, 0, 0]], [0], [2], [[0.6, 0.1]], box_weight=0.0)
    assert set(losses) == {"cls"}


@pytest.mark.parametrize(("options", "message"), [
    ({"score": 0.05}, "DISTILL.SetKD.SCORE is 0.05: give a number from SCORE_LOW 0.1 to 1"),
    ({"score_low": 0.0}, "DISTILL.SetKD.SCORE_LOW must be above 0"),
    ({"max_boxes": 0}, "DISTILL.SetKD.MAX_BOXES must be above 0"),
    ({"union_nms": 0.0}, "DISTILL.SetKD.UNION_NMS must be above 0"),
    ({"cls_weight": 0.0, "box_weight": 0.0}, "leave SetKD out of DISTILL.HEADS"),
    ({"points": "all"}, "DISTILL.SetKD.POINTS: unknown 'all'"),
    ({"points": "both"}, "POINTS both is of Faster and Mask R-CNN.*general for a X"),
    ({"points": "both", "dense": False, "stages": 3}, "a X with 3 box stages"),
])  # fmt: skip
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        head(**options)


def two_teachers(boxes, rows):
    """The first knows class 0, the second class 1; each has one of the boxes."""
    known = (tensor(True, False), tensor(False, True))
    parts = zip(boxes, rows, known, strict=True)
    return union([a_set([box], [row], known=x) for box, row, x in parts], 0.6)


def test_each_of_several_teachers_says_nothing_of_classes_that_it_lacks():
    """Background is of all classes that one of them knows."""
    sets = two_teachers(BOXES, [[0.8, 0.0], [0.0, 0.7]])
    _, grads = run(head(box_weight=0.0), Student(labels=[2] * 4), sets)
    assert (grads["cls"][0][0] != 0).tolist() == [[True, False], [False, True], [True] * 2,
                                                  [True] * 2]  # fmt: skip


@pytest.mark.parametrize(("first", "label", "takes_part"), [
    (0.8, 2, True), (0.8, 0, True), (0.8, 1, False), (0.6, 1, False),
])  # fmt: skip
def test_regions_of_several_teachers(first, label, takes_part):
    """A proposal with a label that its box's teacher lacks takes no part."""
    sets = two_teachers(TWO, [[first, 0.0], [0.0, 0.7]])
    place = 0 if first > 0.7 else 1  # the most certain box comes first
    _, grad = regions([[1.0, 2, 0]] * 2, [place, -1], [label, 2], sets)
    assert (grad != 0).tolist() == [[takes_part, False, takes_part], [True] * 3]
    _, grad = regions([[1.0, 2, 0]], [-2], [2], sets, points="both")
    assert bool((grad != 0).all())  # of the boxes of both


def test_measures():
    """Of two taught boxes one is an object of its class; the other is one of another class."""
    boxes = [[0.0, 0, 8, 8], [16.0, 16, 24, 24], [32.0, 0, 40, 8]]
    sets = a_set(boxes, [[0.8, 0.1], [0.1, 0.6], [0.2, 0.0]], images=2)
    chosen = taught_set(sets, 0.1, 4)
    there = Boxes(torch.tensor([[0.0, 0, 8, 12], [16.0, 16, 24, 24]]))
    objects = Instances((64, 64), gt_boxes=there, gt_classes=torch.tensor([0, 0]))
    found = chosen.measures([objects, objects[:0]], 0.3)
    expected = {"taught_boxes": 2.0, "ignored_boxes": 1.0, "score": 0.7, "labelled": 0.5}
    assert {k: x.item() for k, x in found.items()} == pytest.approx(expected)
    none = taught_set(a_set(boxes, [[0.0, 0.0]] * 3), 0.1, 4).measures([objects], 0.3)
    assert all(x == 0 for x in none.values()) and set(none) == set(expected)
    unlabelled = chosen.measures([NOTHING, NOTHING], 0.3)
    assert set(unlabelled) == {*expected} - {"labelled"} and unlabelled["taught_boxes"] == 2
