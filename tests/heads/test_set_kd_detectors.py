"""SetKD between tiny detectors of all families."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from d2kd import Distiller, Teacher, build_adapter
from d2kd.adapters.class_map import ClassMap
from d2kd.detectors import Predicted, TransformersDetector
from d2kd.detectors.transformers_backbone import TransformersBackbone
from d2kd.heads import build_head, head_defaults
from d2kd.heads.set_kd import SetKD
from d2kd.heads.taught_set import taught_set
from d2kd.inference.distillation_maps import distillation_maps
from d2kd.losses import box_iou_loss, mean_over_ranks, quality_focal_loss
from d2kd.losses.labels import foreground
from d2kd.testing import make_batch
from tests.adapters.test_sets import CASCADE, DETECTORS, trained
from tests.engine.test_ddp import distillation, gradients, whole_batch, worker
from tests.helpers import detector
from tests.ranks import two_ranks
from tests.tiny_transformers import tiny

LOW = {"SCORE": 0.06, "SCORE_LOW": 0.055}  # tiny detectors are not sure of much


def student_of(name, **keys):
    meta, own = DETECTORS[name]
    return detector(meta, **{**own, **keys})


def distiller(student, *teachers, maps=None, **options):
    teachers = [x if isinstance(x, Teacher) else Teacher(x) for x in teachers]
    node = {k.upper(): v for k, v in head_defaults(SetKD).items()}
    node |= {**LOW, **options}
    adapter = build_adapter(student)
    count = len(maps[0].student) if maps else 0
    head = build_head("SetKD", node, adapter, teachers[0].adapter, count)
    heads = {"SetKD": (head, 1.0, 0)}
    return Distiller(student=student, teachers=teachers, heads=heads, class_maps=maps).train()


def terms(losses):
    return {k: x for k, x in losses.items() if "SetKD" in k}


def step(model, batch=None):
    torch.manual_seed(0)
    losses = model(batch or make_batch())
    model.zero_grad()
    sum(losses.values()).backward()
    for name, x in model.student.named_parameters():
        assert x.grad is not None and bool(x.grad.isfinite().all()), name
    return terms(losses)


STUDENTS = [x for x in DETECTORS if x not in ("FCOS, product", "AutoAssign, joint", "Mask R-CNN")]


@pytest.mark.parametrize("student", STUDENTS)
def test_every_teacher(student):
    """Each family teaches each; a teacher sees no gradient.

    Few proposals of a cascade meet a taught box: they do of some of the teachers.
    """
    options, places = {"POINTS": "both"} if student == "Faster R-CNN" else {}, []
    for name in STUDENTS:
        model = distiller(student_of(student), trained(name), **options)
        losses = step(model)
        assert set(losses) == {"loss_SetKD_cls", "loss_SetKD_box"}, name
        assert model.heads["SetKD"].measures["taught_boxes"] > 0, name
        assert losses["loss_SetKD_cls"] > 0, name
        places.append(bool(losses["loss_SetKD_box"] > 0))
        assert all(x.grad is None for x in model.teachers[0].detector.parameters())
    assert all(places) or (student == "Cascade R-CNN" and any(places)), places


def ground_truth(batch, student):
    """The objects as a set, each sure of its class."""
    objects = [x["instances"] for x in batch]
    boxes = torch.stack([x.gt_boxes.tensor for x in objects])
    classes = torch.stack([x.gt_classes for x in objects])
    return Predicted(boxes, torch.nn.functional.one_hot(classes, 3).float(), False)


@pytest.mark.parametrize("name", ["RetinaNet", "FCOS", "ATSS", "GFL", "GFLv2", "RepPoints"])
def test_the_objects_themselves_as_a_set(name):
    """Hard labels and GIoU over the student's own positives, divided by their number."""
    model, batch = distiller(student_of(name), trained(name)), make_batch()
    student = model.run_student(batch)
    losses = model.heads["SetKD"](student, SimpleNamespace(sets=ground_truth(batch, student)))
    labels, count = student.labels, foreground(student.labels, 3).sum()
    assert count > 5
    boxes = torch.cat(list(model.adapter.decode(student).values()), 1)
    gap = box_iou_loss(boxes, student.matched_boxes)
    valid = torch.cat(list(student.valid.values()), 1)
    positive = foreground(labels, 3) & valid
    count = positive.sum()
    assert_close(losses["box"], gap[positive].sum() / count)
    if name in ("RetinaNet", "FCOS", "ATSS", "RepPoints"):
        z = torch.cat(list(student.logits.values()), 1)
        y = torch.nn.functional.one_hot(labels.clamp(min=0), 4)[..., :3].float()
        loss = quality_focal_loss(z, y).sum(2)
        assert_close(losses["cls"], loss[(labels >= 0) & valid].sum() / count)


@pytest.mark.parametrize("name", ["RetinaNet", "FCOS", "ATSS", "DDOD", "GFL", "RepPoints"])
def test_cells_are_assigned_as_to_objects(name):
    model, batch = distiller(student_of(name), trained(name)), make_batch()
    student = model.run_student(batch)
    classes = torch.stack([x["instances"].gt_classes for x in batch])
    place = model.adapter.assign(student, ground_truth(batch, student).boxes, classes)[0]
    expected = classes.gather(1, place.clamp(min=0)).where(place >= 0, torch.tensor(3))
    assert torch.equal(expected.where(place > -2, torch.tensor(-1)), student.labels)
    none = model.adapter.assign(student, torch.zeros(2, 0, 4), classes[:, :0])[0]
    assert bool((none == -1).logical_or(student.labels < 0).all())


@pytest.mark.parametrize("name", ["RetinaNet", "FCOS", "ATSS", "RepPoints"])
def test_an_image_without_a_set_is_assigned_to_few_cells(name):
    """RetinaNet's matcher gives a box without area, whose IoU is 0 with all, every anchor."""
    model, batch = distiller(student_of(name), trained(name)), make_batch()
    student = model.run_student(batch)
    sets = ground_truth(batch, student)
    factor = torch.tensor([1.0, 0.0])[:, None, None]
    sets = sets._replace(boxes=sets.boxes * factor, probabilities=sets.probabilities * factor)
    place = model.adapter.assign(student, *taught_set(sets, 0.1, 100).objects())[0]
    assert bool((place[0] >= 0).any()) and (place[1] >= 0).float().mean() < 0.1


@pytest.mark.parametrize("name", ["RetinaNet", "FCOS", "ATSS", "DDOD", "GFL", "RepPoints"])
def test_other_images_change_no_target(name):
    """Two boxes that are almost one want the same cells, beside an image of two and of six."""
    model, batch = distiller(student_of(name), trained(name)), make_batch()
    student = model.run_student(batch)
    x = torch.arange(6.0)[:, None]
    boxes = torch.stack([torch.cat([4 + x, 4 + x, 40 + x, 36 + x], 1), torch.zeros(6, 4)])
    boxes[1, :2] = torch.tensor([[8.0, 6, 40, 36], [8.2, 6, 40, 36]])
    rows = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])[:, None] * torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    rows = torch.stack([rows, rows * (boxes[1, :, 2:3] > 0)])
    found = []
    for most in (2, 6):
        taught = taught_set(Predicted(boxes, rows, False), 0.1, most)
        place = model.adapter.assign(student, *taught.objects())[0]
        points = taught.at(torch.arange(2)[:, None], place, 0.1)
        found.append((points.probabilities[1], points.boxes[1], points.background[1]))
    assert bool((found[0][0][:, 1] > 0).any())
    assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("keys", [{}, CASCADE], ids=["faster", "cascade"])
def test_regions_are_assigned_as_to_objects(keys):
    student = detector("GeneralizedRCNN", **keys)
    model, batch = distiller(student, trained("Faster R-CNN")), make_batch()
    out = model.run_student(batch)
    classes = torch.stack([x["instances"].gt_classes for x in batch])
    places = model.adapter.assign(out, ground_truth(batch, out).boxes, classes)
    assert len(places) == len(out.roi) == (3 if keys else 1)
    for place, stage in zip(places, out.roi, strict=True):
        counts = [len(x) for x in stage.proposals]
        for n, found in enumerate(place.split(counts)):
            expected = classes[n][found.clamp(min=0)].where(found >= 0, torch.tensor(3))
            assert torch.equal(expected, stage.proposals[n].gt_classes)


@pytest.mark.parametrize("name", ["RetinaNet", "Faster R-CNN"])
def test_other_strides_and_another_order_of_classes(name):
    """Only the set counts: not where the teacher's cells are, nor which class is where."""
    student, options = student_of(name), {"POINTS": "both"} if name == "Faster R-CNN" else {}
    teacher = detector("RetinaNet", 12, 1, MODEL__RETINANET__IN_FEATURES=["p4", "p5", "p6"],
                       MODEL__ANCHOR_GENERATOR__SIZES=[[32], [64], [128]])  # fmt: skip
    with torch.no_grad():
        for x in teacher.parameters():
            x.add_(0.05 * torch.randn_like(x))
    expected = step(distiller(copy.deepcopy(student), teacher, **options))
    assert expected["loss_SetKD_box"] > 0
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        for x in (other.head.cls_score.weight, other.head.cls_score.bias):
            x.copy_(x.unflatten(0, (-1, 3))[:, [1, 2, 0]].flatten(0, 1))
    maps = {0: ClassMap(3, (0, 1, 2), ((2,), (0,), (1,)))}
    assert_close(step(distiller(copy.deepcopy(student), other, maps=maps, **options)), expected)
    wrong = step(distiller(copy.deepcopy(student), other, **options))
    assert not torch.isclose(wrong["loss_SetKD_cls"], expected["loss_SetKD_cls"], rtol=1e-4)


@pytest.mark.parametrize("name", ["GFL", "Faster R-CNN"])
def test_a_class_that_the_teacher_lacks(name):
    """Its predictor gets nothing from SetKD, whatever the points are labelled."""
    maps = {0: ClassMap(3, (0, 2), ((0,), (1,)))}
    model = distiller(student_of(name), trained("RetinaNet"), maps=maps)
    torch.manual_seed(0)
    sum(terms(model(make_batch())).values()).backward()
    for key, x in model.student.named_parameters():
        if "cls_score" in key:
            count = 4 if name == "Faster R-CNN" else 3
            grad = x.grad.unflatten(0, (-1, count))
            assert not grad[:, 1].any() and bool(grad[:, 0].any()), key


def test_many_classes_that_are_one_of_the_students():
    """Each is below SCORE_LOW; their sum, which is known only later, is far above SCORE."""
    teacher = trained("Faster R-CNN", classes=10)
    scores = teacher.roi_heads.box_predictor.cls_score
    torch.nn.init.zeros_(scores.weight)
    scores.bias.data = torch.tensor([0.0] * 10 + [math.log(10 / 9)])  # background has 0.1
    maps = {0: ClassMap(3, (1,), (tuple(range(10)),))}
    model = distiller(student_of("RetinaNet"), teacher, maps=maps, SCORE=0.3, SCORE_LOW=0.1)
    student = model.run_student(make_batch())
    teachers = model.run_teachers(make_batch(), student)
    rows = model.seen_by("SetKD", student, teachers)[1].sets.probabilities
    assert_close(rows.amax((1, 2)), torch.full((2,), 0.9))
    assert model.run_heads(student, teachers)["loss_SetKD_box"] > 0


@pytest.mark.parametrize("name", ["RetinaNet", "Faster R-CNN"])
@pytest.mark.parametrize("family", ["RTDetr", "Detr"])
def test_teachers_of_transformers(family, name):
    """Of independent and of exclusive classes; of their 10 boxes the certain ones count."""
    pytest.importorskip("transformers")
    pixels = {"pixel_mean": [0.0] * 3, "pixel_std": [255.0] * 3}
    teacher = TransformersDetector(backbone=TransformersBackbone(tiny(family)), **pixels)
    model = distiller(student_of(name), teacher)
    losses = step(model)
    assert losses["loss_SetKD_cls"] > 0
    sets = model.run_teachers(make_batch(), None)[0].sets
    assert 0 < sets.boxes.shape[1] <= 10 and sets.exclusive == (family == "Detr")
    assert bool((sets.boxes <= torch.tensor([128, 96, 128, 96.0])).all())


def test_numbers_of_classes_differ_and_no_names_are_known():
    teacher = detector(MODEL__RETINANET__NUM_CLASSES=7)
    with pytest.raises(ValueError, match="SetKD compares class predictions.*3 classes and.*7"):
        distiller(detector(), teacher)


def test_what_has_no_sets_cannot_teach():
    heads = detector("GeneralizedRCNN", MODEL__ROI_BOX_HEAD__TRAIN_ON_PRED_BOXES=True)
    with pytest.raises(ValueError, match="SetKD needs roi; student GeneralizedRCNN.*TRAIN_ON"):
        distiller(heads, detector())
    sigmoid = detector("GeneralizedRCNN", MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE=True)
    with pytest.raises(ValueError, match="SetKD needs roi; .*MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE F"):
        distiller(sigmoid, detector())
    assert not distiller(detector(), sigmoid).run_teachers(make_batch(), None)[0].sets.exclusive
    maps = Teacher(detector())
    maps.adapter.provides = frozenset({"features"})
    with pytest.raises(ValueError, match="SetKD needs sets; teacher RetinaNet.*one of: .*PKD"):
        distiller(detector(), maps)


def test_a_teacher_whose_detections_alone_are_known():
    """Of RoI heads that are not Detectron2's standard ones: classes and scores, as labels."""
    teacher = trained("Faster R-CNN")
    teacher.roi_heads.train_on_pred_boxes = True  # which no adapter replays
    model = distiller(student_of("RetinaNet"), teacher)
    assert step(model)["loss_SetKD_cls"] > 0
    sets = model.run_teachers(make_batch(), None)[0].sets
    assert bool(sets.labels.all()) and bool(((sets.probabilities > 0).sum(2) <= 1).all())
    found = teacher(make_batch())[0]["instances"]
    assert_close(sets.probabilities[0].amax(1)[: len(found)], found.scores)


@pytest.mark.parametrize("name", ["RetinaNet", "Faster R-CNN"])
def test_images_without_objects_and_without_a_set(name):
    model = distiller(student_of(name), trained("RetinaNet"), SCORE=1.0, SCORE_LOW=1.0)
    losses = step(model, make_batch(boxes=0))
    assert losses["loss_SetKD_box"] == 0 and losses["loss_SetKD_cls"] > 0


@pytest.mark.parametrize("name", ["RetinaNet", "GFL", "Faster R-CNN"])
def test_nan_boxes_of_a_teacher(name):
    """They are left out; a set of nothing else teaches that nothing is there."""
    teacher = trained(name)
    box = teacher.roi_heads.box_predictor if "R-CNN" in name else teacher.head
    torch.nn.init.constant_(box.bbox_pred.bias, float("nan"))
    losses = step(distiller(student_of("RetinaNet"), teacher))
    assert losses["loss_SetKD_box"] == 0 and bool(losses["loss_SetKD_cls"].isfinite())


@pytest.mark.parametrize("name", ["RetinaNet", "GFLv2", "Faster R-CNN"])
def test_bfloat16(name):
    model = distiller(student_of(name), trained("RetinaNet"))
    torch.manual_seed(0)
    exact = terms(model(make_batch()))
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        student = model.run_student(make_batch())
    teachers = model.run_teachers(make_batch(), student)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = terms(model.run_heads(student, teachers))
    for key, x in mixed.items():
        assert x.dtype == torch.float32 and bool(x.isfinite())
        assert_close(x, exact[key], atol=0.05, rtol=0.1)


def test_taught_boxes_are_asked_too():
    student = student_of("Faster R-CNN")
    plain = step(distiller(copy.deepcopy(student), trained("RetinaNet")))
    both = step(distiller(copy.deepcopy(student), trained("RetinaNet"), POINTS="both"))
    assert both["loss_SetKD_box"] > 0
    assert not torch.isclose(both["loss_SetKD_cls"], plain["loss_SetKD_cls"], rtol=1e-4)


def test_several_teachers():
    """A teacher beside itself adds nothing; another one adds what the first has not found."""
    first, second = trained("Faster R-CNN"), trained("RetinaNet", seed=3)
    alone = step(distiller(student_of("GFL"), first))
    same = distiller(student_of("GFL"), first, copy.deepcopy(first), TEACHERS=(0, 1))
    assert_close(step(same), alone)
    model = distiller(student_of("GFL"), first, second, TEACHERS=(0, 1))
    assert not torch.isclose(step(model)["loss_SetKD_box"], alone["loss_SetKD_box"])
    out = model.run_teachers(make_batch(), None)
    sets = model.seen_by("SetKD", None, out)[1].sets
    assert sets.boxes.shape[1] == sum(x.sets.boxes.shape[1] for x in out.values())
    assert sets.known is None and sets.labels is not None
    with pytest.raises(ValueError, match="DISTILL.SetKD.TEACHERS is 2, but .* lists 2 teachers"):
        distiller(student_of("GFL"), first, second, TEACHERS=(0, 2))


def test_maps():
    model = distiller(student_of("RetinaNet"), trained("RetinaNet"))
    found = distillation_maps(model, make_batch())
    for image, size in zip(found, ((96, 128), (80, 64)), strict=True):
        assert set(image) == {"SetKD: teacher", "SetKD: student"}
        for stride, x in image["SetKD: teacher"].items():
            assert x.shape == tuple(-(-n // stride) for n in size) and x.min() >= 0 and x.max() <= 1
    assert max(x.max() for x in found[0]["SetKD: teacher"].values()) > LOW["SCORE"]
    two_stage = distiller(student_of("Faster R-CNN"), trained("RetinaNet"))
    assert distillation_maps(two_stage, make_batch()) == [{}, {}]


ALL = {"MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 512, "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0}
RANKED = {"RetinaNet": "GFL", "Faster R-CNN": "RetinaNet"}


def terms_and_gradients(name, batch, ddp):
    points = "both" if name == "Faster R-CNN" else "general"
    model = distiller(student_of(name, **ALL), trained(RANKED[name]), POINTS=points)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if ddp else model
    losses = wrapped(batch)
    found = distillation(losses, ("SetKD",))
    zero = sum(losses.values()) * 0  # the supervised losses keep every parameter in the graph
    (sum(found.values()) + zero).backward()
    return {k: mean_over_ranks(v.detach()) for k, v in found.items()}, gradients(model)


def compare_with_one_process(rank, folder, name):
    mine = terms_and_gradients(name, whole_batch()[2 * rank : 2 * rank + 2], ddp=True)
    for values, expected in zip(mine, torch.load(f"{folder}/expected.pth"), strict=True):
        assert set(values) == set(expected)
        for key, value in expected.items():
            assert_close(values[key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", RANKED)
def test_two_ranks_give_the_terms_and_gradients_of_one_process(tmp_path, name):
    """Where all proposals are sampled."""
    expected = terms_and_gradients(name, whole_batch(), ddp=False)
    assert all(x > 0 for x in expected[0].values())
    torch.save(expected, tmp_path / "expected.pth")
    two_ranks(worker, compare_with_one_process, str(tmp_path), name)
