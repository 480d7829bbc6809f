"""Teachers of other class lists: matched by name, and what does not match teaches nothing."""

import logging

import pytest
import torch
from torch.testing import assert_close

from d2kd import Distiller, Teacher, build_adapter
from d2kd.adapters.class_map import ClassMap
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.data.class_names import matching
from d2kd.detectors import Predicted
from d2kd.errors import ConfigError
from d2kd.heads import DISTILLATION_HEAD_REGISTRY, build_head, head_defaults
from d2kd.teachers.class_map import build_class_maps, known_pairs, match_classes
from d2kd.teachers.inherit import initialize_from_teacher
from d2kd.testing import make_batch
from tests.helpers import clone, detector

PERMUTED = ClassMap(3, (0, 1, 2), ((2,), (0,), (1,)))
CASES = [
    ("RetinaNet", "BCKD", {}), ("FCOS", "BCKD", {}), ("ATSS", "BCKD", {}), ("GFL", "BCKD", {}),
    ("RetinaNet", "CrossKD", {}), ("FCOS", "CrossKD", {}), ("GFL", "CrossKD", {}),
    ("ATSS", "PGD", {}), ("AutoAssign", "PGD", {}), ("AutoAssign", "BCKD", {}),
    ("GFL", "LD", {"CLS_WEIGHT": 1.0}), ("GFL", "Parallel", {}),
    ("GeneralizedRCNN", "RoIKD", {}), ("GeneralizedRCNN", "RoIKD", {"LOSS": "KD"}),
    ("GeneralizedRCNN", "RoIKD", {"LOSS": "DIST"}), ("GeneralizedRCNN", "MaskKD", {}),
]  # fmt: skip
GFLV2 = {"MODEL__GFL__QUALITY": "DGQP"}
LABELS = {"MODEL__AUTOASSIGN__HARD_LABELS": True}


def distiller(student, teacher, name, options, class_map=None):
    teacher, adapter = Teacher(teacher), build_adapter(student)
    node = {k.upper(): v for k, v in head_defaults(DISTILLATION_HEAD_REGISTRY.get(name)).items()}
    count = len(class_map.student) if class_map else 0
    head = build_head(name, {**node, **options}, adapter, teacher.adapter, count)
    maps = {0: class_map} if class_map else {}
    return Distiller(
        student=student, teachers=[teacher], heads={name: (head, 1.0, 0)}, class_maps=maps
    ).train()


@torch.no_grad()
def with_classes(model, rows):
    """The detector with its classes at other places: place k has what was `rows[k]`."""
    model = clone(model)
    for name, x in model.named_parameters():
        if "cls_score" in name or "mask_head.predictor" in name:
            background = "box_predictor" in name
            count = 3 + background
            order = [*rows, 3] if background else rows
            x.copy_(x.unflatten(0, (-1, count))[:, order].flatten(0, 1))
    return model


def losses_of(model):
    torch.manual_seed(3)
    losses = {k: x for k, x in model(make_batch()).items() if k.split("_")[1] in model.heads}
    model.zero_grad()
    sum(losses.values()).backward()
    grads = {k: x.grad.clone() for k, x in model.student.named_parameters() if x.grad is not None}
    return losses, grads


def pair_of(meta, seed=1):
    keys = {"GFL": GFLV2, "AutoAssign": LABELS}.get(meta, {})
    teacher = detector(meta, 8, seed, **keys)
    with torch.no_grad():
        for x in teacher.parameters():
            x.add_(0.05 * torch.randn_like(x))
    return detector(meta, 8, **keys), teacher


@pytest.mark.parametrize(("meta", "name", "options"), CASES)
def test_a_teacher_in_another_order_teaches_the_same(meta, name, options):
    student, teacher = pair_of(meta)
    expected = losses_of(distiller(clone(student), teacher, name, options))
    swapped = with_classes(teacher, [1, 2, 0])  # place 2 has class 0, place 0 class 1
    found = losses_of(distiller(clone(student), swapped, name, options, PERMUTED))
    wrong = losses_of(distiller(clone(student), swapped, name, options))
    assert sum(expected[0].values()) > 0
    small = 1e-5 * max(x.abs().max() for x in expected[1].values()).item()
    crosses = name == "CrossKD"  # both sides are predicted by the teacher
    for loss, grads, same in ((*found, True), (*wrong, crosses)):
        equal = [torch.allclose(loss[k], x, rtol=1e-5) for k, x in expected[0].items()]
        equal += [torch.allclose(grads[k], x, rtol=1e-3, atol=small)
                  for k, x in expected[1].items()]  # fmt: skip
        assert all(equal) == same


@pytest.mark.parametrize(("meta", "name", "options"), CASES)
def test_a_class_that_the_teacher_lacks_is_not_taught(meta, name, options):
    """Neither its predictor nor its objects have a say."""
    student, teacher = pair_of(meta)
    class_map = ClassMap(3, (0, 2), ((0,), (1,)))  # the teacher's class 2 is none of ours
    model = distiller(student, teacher, name, options, class_map)
    losses, grads = losses_of(model)
    for key, x in grads.items():
        if "cls_score" in key or "mask_head.predictor" in key:
            count = 3 + ("box_predictor" in key)
            assert not x.unflatten(0, (-1, count))[:, 1].any(), key
    other = clone(model)
    with torch.no_grad():
        for key, x in [
            *other.student.named_parameters(),
            *other.teachers[0].detector.named_parameters(),
        ]:
            if "cls_score" in key or "mask_head.predictor" in key:
                place = 1 if x is dict(other.student.named_parameters()).get(key) else 2
                x.unflatten(0, (-1, 3 + ("box_predictor" in key)))[:, place] += 5
    if meta != "GeneralizedRCNN":  # there a student's own scores choose no proposals, but deltas do
        for key, x in losses_of(other)[0].items():
            assert_close(x, losses[key])


def test_columns():
    output = torch.tensor([[1.0, 5.0, 3.0, 2.0]])
    from d2kd.adapters.class_map import _pick, _pick_softmax

    index = ((3,), (0, 2))
    assert _pick(output, index, 1).tolist() == [[2.0, 3.0]]
    found = _pick_softmax(torch.cat([output, torch.tensor([[0.5]])], 1), index).softmax(1)
    p = torch.tensor([1.0, 5.0, 3.0, 2.0, 0.5]).softmax(0)
    expected = torch.stack([p[3], p[0] + p[2], p[4]])
    assert_close(found[0], expected / expected.sum())


def test_places_of_many_classes_are_on_the_device_once():
    from d2kd.adapters.class_map import _on

    many = ClassMap(100, tuple(range(100)), tuple((i, i + 100, i + 200) for i in range(100)))
    rows = torch.rand(1, 4, 300)
    sets = Predicted(torch.rand(1, 4, 4), rows, True)
    for _ in range(2):
        before = _on.cache_info().misses
        found = many.of_sets(sets).probabilities
    assert _on.cache_info().misses == before
    assert_close(found, rows.unflatten(2, (3, 100)).sum(2))


COCO = ["person", "bicycle", "motorcycle", "airplane", "couch", "tv", "cell phone"]


def test_names():
    ours = ["TV_monitor", "Sofa", "aeroplane", "helmet", "Person"]
    assert matching(ours, COCO) == [[], [4], [3], [], [0]]
    assert matching(["tvmonitor", "mobile-phone"], COCO) == [[5], [6]]
    assert matching(
        ["vehicle", "person"], COCO, [("bicycle", "vehicle"), ("motorcycle", "vehicle")]
    ) == [[1, 2], [0]]
    assert matching(["A", "a"], ["a", "A"]) == [[1], [0]]
    both = ["sofa", "couch", "tv"]  # two names of one meaning are two classes where both are there
    assert matching(both, both) == [[0], [1], [2]] and matching(["couch"], both) == [[1]]
    assert matching(both, ["television", "couch"]) == [[], [1], [0]]
    found = match_classes(ours, COCO, ())
    assert found == ClassMap(5, (1, 2, 4), ((4,), (3,), (0,)))
    assert match_classes(COCO, COCO, ()) is None
    assert match_classes([], COCO, ()) is match_classes(COCO, [], ()) is None
    text = found.text(ours, COCO)
    assert "3 of the student's 5: Sofa by couch, aeroplane by airplane, Person by person" in text
    assert text.endswith("it does not teach TV_monitor, helmet")


def test_no_class_in_common():
    with pytest.raises(ConfigError, match=r"helmet\) and the teacher \(person, .*CLASS_MAP"):
        match_classes(["helmet"], COCO, ())
    with pytest.raises(ConfigError, match="CLASS_MAP, the teacher's class: unknown 'human'"):
        match_classes(["helmet"], COCO, [("human", "helmet")])
    with pytest.raises(ConfigError, match="the student's class: unknown 'hat'.*helmet"):
        match_classes(["helmet"], COCO, [("person", "hat")])
    twice = [("person", "hat"), ("bicycle", "hat"), ("person", "hat"), ("person", "helmet")]
    with pytest.raises(ConfigError, match="class 'person' to 'hat' and to 'helmet': name it once"):
        match_classes(["helmet", "hat"], COCO, twice)


def test_pairs_of_several_teachers():
    cfg = get_d2kd_cfg()
    cfg.DISTILL.TEACHER.CLASS_MAP = (("truck", "vehicle"), ("bus", "vehicle"))
    assert known_pairs(cfg, ["truck", "person"]) == [("truck", "vehicle")]
    teacher = Teacher(detector())
    cfg.DISTILL.HEADS = ("PKD",)
    with pytest.raises(ConfigError, match="names of the teachers' classes are not known"):
        build_class_maps(cfg, [teacher])
    teacher.classes = ["truck", "car", "person"]
    with pytest.raises(ConfigError, match="the teacher's class: unknown 'bus'"):
        build_class_maps(cfg, [teacher])


def test_a_predictor_of_other_classes_is_not_inherited(caplog):
    student, teacher = detector(), Teacher(detector(seed=1))
    before = clone(student.head.cls_score.weight)
    with caplog.at_level(logging.INFO, "d2kd"):
        initialize_from_teacher(student, [teacher], "neck+head", same_classes=False)
    assert torch.equal(student.head.cls_score.weight, before)
    assert torch.equal(student.head.bbox_pred.weight, teacher.detector.head.bbox_pred.weight)
    assert "head.cls_score.weight" in caplog.text
