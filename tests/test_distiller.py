"""The contract of the Distiller."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from torch.testing import assert_close

from d2kd import DistillationHead, Distiller, Teacher
from d2kd.build import compile_in_place
from d2kd.teachers.inherit import initialize_from_teacher
from d2kd.testing import make_batch, tiny_cfg
from tests.helpers import clone, detector, distill, pair

FAMILIES = [
    ("RetinaNet", ("PKD", "BCKD")),
    ("FCOS", ("PKD", "BCKD")),
    ("GeneralizedRCNN", ("PKD",)),
]


@pytest.mark.parametrize(("meta", "heads"), FAMILIES)
def test_supervised_losses_are_stock_and_terms_are_added(meta, heads):
    student, model = pair(meta, heads)
    stock = clone(student)
    torch.manual_seed(3)
    expected = stock(make_batch())
    torch.manual_seed(3)
    losses = model(make_batch())
    for name, value in expected.items():
        assert torch.equal(losses.pop(name), value), name
    terms = {"loss_PKD_feat"} | ({"loss_BCKD_cls", "loss_BCKD_loc"} if "BCKD" in heads else set())
    assert set(losses) == terms
    assert all(v.item() > 0 and v.dim() == 0 for v in losses.values())


def test_state_dict_is_the_students():
    student, model = pair()
    assert list(model.state_dict()) == list(student.state_dict())
    other = detector(seed=5)
    result = model.load_state_dict(other.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    for a, b in zip(student.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_teacher_is_out_of_reach():
    student, model = pair()
    teacher = model.teachers[0].detector
    inside = {id(p) for p in model.parameters()}
    assert not inside & {id(p) for p in teacher.parameters()}
    assert teacher not in list(model.modules())
    model.train()
    assert not teacher.training and student.training
    assert not any(p.requires_grad for p in teacher.parameters())
    model.double()
    assert all(p.dtype == torch.float64 for p in teacher.parameters())
    model.float().to("cpu")
    before = clone(teacher.state_dict())
    sum(model(make_batch()).values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_optimizer_has_projections_and_no_teacher():
    student, model = pair()
    optimizer = build_optimizer(tiny_cfg(), model)
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    projections = list(model.heads.parameters())
    assert len(projections) == 8  # four levels, 8 -> 12 channels, weight and bias
    assert optimized == {id(p) for p in [*student.parameters(), *projections]}


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize(("meta", "heads"), FAMILIES)
def test_every_parameter_has_a_gradient(meta, heads, scale):
    _, model = pair(meta, heads)
    model.scale = scale
    losses = model(make_batch())
    assert scale or all(losses[k].item() == 0 for k in losses if k.startswith("loss_PKD"))
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.parametrize(("meta", "heads"), FAMILIES)
def test_identical_teacher_gives_zero(meta, heads):
    student = detector(meta)
    model = distill(student, [clone(student)], heads).train()
    losses = model(make_batch())
    assert all(v.item() == 0 for k, v in losses.items() if k.startswith(("loss_PKD", "loss_BCKD")))


@pytest.mark.parametrize(("meta", "heads"), FAMILIES)
def test_images_without_objects(meta, heads):
    _, model = pair(meta, heads)
    losses = model(make_batch(boxes=0))
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_order_of_images_does_not_matter():
    _, model = pair()
    batch = make_batch(sizes=((96, 128), (80, 64), (64, 96)))
    forward, backward = model(batch), model(batch[::-1])
    for key in ("loss_PKD_feat", "loss_BCKD_cls", "loss_BCKD_loc"):
        assert_close(forward[key], backward[key])


def test_eval_mode_is_the_student():
    student, model = pair()
    batch = make_batch()
    model.eval()
    mine, stock = model(batch), student(batch)
    for a, b in zip(mine, stock, strict=True):
        assert torch.equal(a["instances"].scores, b["instances"].scores)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_input_is_its_own_preprocessing(precision):
    student = detector()
    other = detector("RetinaNet", 12, seed=1, MODEL__PIXEL_MEAN=[120.0, 110.0, 100.0],
                     MODEL__PIXEL_STD=[58.0, 57.0, 56.0])  # fmt: skip
    teacher = Teacher(other, input_format="RGB", precision=precision)
    model = distill(student, [teacher], ("PKD",)).train()
    batch = make_batch()
    rgb = [{**x, "image": x["image"][[2, 1, 0]]} for x in batch]
    out = teacher(batch, model.divisor, "BGR", frozenset({"features"}))
    assert torch.equal(out.images.tensor, other.preprocess_image(rgb).tensor)
    assert out.features[8].dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert model(batch)["loss_PKD_feat"].dtype == torch.float32


def test_student_and_teacher_share_one_padding():
    student = detector()
    teacher = detector("GeneralizedRCNN", 12, seed=1)
    teacher.backbone.divisibility = 48
    model = distill(student, [teacher], ("PKD",)).train()
    assert model.divisor == 96
    assert model(make_batch())["loss_PKD_feat"].item() > 0


@pytest.mark.parametrize("student", ["RetinaNet", "FCOS", "GeneralizedRCNN"])
@pytest.mark.parametrize("teacher", ["RetinaNet", "FCOS", "GeneralizedRCNN"])
def test_features_across_families(student, teacher):
    model = distill(detector(student), [detector(teacher, 12, seed=1)], ("PKD",)).train()
    losses = model(make_batch())
    assert losses["loss_PKD_feat"].item() > 0
    assert model.heads["PKD"].strides == [8, 16, 32, 64] if student != teacher else True


def test_two_teachers_each_run_once():
    student = detector()
    teachers = [Teacher(detector("RetinaNet", 12, seed=1)), Teacher(detector("FCOS", 16, seed=2))]
    calls = []
    for i, teacher in enumerate(teachers):
        teacher.detector.backbone.register_forward_hook(lambda *_, i=i: calls.append(i))
    one = distill(student, [teachers[0]], ("PKD", "BCKD")).heads
    two = distill(student, [teachers[1]], ("PKD",)).heads
    heads = {
        "PKD": (one["PKD"], 1.0, 0),
        "BCKD": (one["BCKD"], 2.0, 0),
        "PKD_b": (two["PKD"], 0.5, 1),
    }
    model = Distiller(student=student, teachers=teachers, heads=heads).train()
    losses = model(make_batch())
    assert calls == [0, 1]
    assert {"loss_PKD_feat", "loss_BCKD_cls", "loss_PKD_b_feat"} <= set(losses)


def test_weight_and_scale_multiply():
    _, model = pair(heads=("PKD",))
    base = model(make_batch())["loss_PKD_feat"]
    model.weights["PKD"], model.scale = 3.0, 0.5
    assert_close(model(make_batch())["loss_PKD_feat"], 1.5 * base)


class RoIProbe(DistillationHead):
    requires = frozenset({"roi", "rpn"})

    def forward(self, student, teacher):
        assert len(student.roi[0].logits) == len(teacher.roi[0].logits) > 0
        assert not teacher.roi[0].logits.requires_grad
        gap = (student.roi[0].logits - teacher.roi[0].logits).square().mean()
        return {"cls": gap, "rpn": (student.rpn.logits[8] - teacher.rpn.logits[8]).square().mean()}


def test_teacher_runs_on_the_students_proposals():
    student, teacher = detector("GeneralizedRCNN"), detector("GeneralizedRCNN", 12, seed=1)
    model = Distiller(student=student, teachers=[Teacher(teacher)],
                      heads={"RoI": (RoIProbe(), 1.0, 0)}).train()  # fmt: skip
    losses = model(make_batch())
    assert losses["loss_RoI_cls"].item() > 0 and losses["loss_RoI_rpn"].item() > 0
    same = Distiller(student=student, teachers=[Teacher(clone(student))],
                     heads={"RoI": (RoIProbe(), 1.0, 0)}).train()  # fmt: skip
    assert same(make_batch())["loss_RoI_cls"].item() == 0


class Twice(DistillationHead):
    def forward(self, student, teacher):
        return {"cls_x": student.features[8].sum()}


class Clash(DistillationHead):
    def forward(self, student, teacher):
        return {"x": student.features[8].sum()}


def test_duplicate_loss_names_are_an_error():
    student, teacher = detector(), Teacher(detector(seed=1))
    heads = {"A": (Twice(), 1.0, 0), "A_cls": (Clash(), 1.0, 0)}
    with pytest.raises(ValueError, match="loss_A_cls_x"):
        Distiller(student=student, teachers=[teacher], heads=heads).train()(make_batch())


def test_bf16_autocast_keeps_head_losses_float32():
    _, model = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_batch())
    for name in ("loss_PKD_feat", "loss_BCKD_cls", "loss_BCKD_loc"):
        assert losses[name].dtype == torch.float32 and losses[name].isfinite()


def test_compile_in_place_keeps_names_and_losses():
    student, model = pair()
    expected = model(make_batch())
    keys = list(model.state_dict())
    adapters = [model.adapter, model.teachers[0].adapter]
    for adapter in adapters:
        for module in adapter.compilable():
            module.compile(dynamic=True, fullgraph=True, backend="aot_eager")
    student.loss_normalizer = 100  # the stock moving average before its first update
    losses = model(make_batch())
    assert list(model.state_dict()) == keys
    for name, value in expected.items():
        assert_close(losses[name], value, atol=1e-5, rtol=1e-5)
    assert compile_in_place([]) is None


def test_init_from_teacher():
    student, teacher = detector(), Teacher(detector(seed=1))
    narrow = Teacher(detector("RetinaNet", 12, seed=1))
    assert initialize_from_teacher(student, [teacher], "none") == []
    assert initialize_from_teacher(student, [teacher], "neck+head") == []
    for key, value in student.state_dict().items():
        same = torch.equal(value, teacher.detector.state_dict()[key])
        assert same != key.startswith("backbone.")  # which is a trunk without FPN
    left = initialize_from_teacher(student, [narrow], "neck+head")
    assert {"head.cls_score.weight", "head.cls_score.bias"} <= set(left)  # whole layers


def test_bad_arguments():
    student, teacher = detector(), Teacher(detector(seed=1))
    head = distill(student, [teacher], ("PKD",)).heads["PKD"]
    with pytest.raises(ValueError, match="DISTILL.PKD.WEIGHT must be at least 0"):
        Distiller(student=student, teachers=[teacher], heads={"PKD": (head, -1.0, 0)})
    with pytest.raises(ValueError, match="DISTILL.PKD.TEACHER is 1"):
        Distiller(student=student, teachers=[teacher], heads={"PKD": (head, 1.0, 1)})
    with pytest.raises(ValueError, match="INPUT.FORMAT"):
        Distiller(student=student, teachers=[teacher], heads={}, input_format="L")
    with pytest.raises(ValueError, match="PRECISION"):
        Teacher(build_model(tiny_cfg()), precision="fp8")
