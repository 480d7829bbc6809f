"""Parallel: toy cases worked out by hand, branches that add and do not touch, targets, errors."""

import pytest
import torch
from torch.testing import assert_close

from d2kd import build_adapter
from d2kd.adapters import DetectorOutput
from d2kd.heads import Parallel
from d2kd.losses import quality_focal_loss
from d2kd.testing import make_batch
from tests.helpers import detector, distill, pair

SDGQP = {"MODEL__GFL__QUALITY": "SDGQP"}
BRANCHES = {"cls": "CLS_WEIGHT", "loc": "LOC_WEIGHT", "quality": "QUALITY_WEIGHT"}


def model_of(options=None, **keys):
    return pair("GFL", ("Parallel",), 8, {"Parallel": options or {}}, **(keys or SDGQP))


def outputs(options=None, batch=None, **keys):
    """Head, student output and teacher output of a real step."""
    _, model = model_of(options, **keys)
    student = model.run_student(batch or make_batch())
    return model.heads["Parallel"], student, model.run_teachers(batch or make_batch(), student)[0]


def specs(student="SDGQP", teacher="SDGQP"):
    models = (detector("GFL", MODEL__GFL__QUALITY=name) for name in (student, teacher))
    return [build_adapter(model).spec() for model in models]


@pytest.mark.parametrize(("student", "teacher", "expected"), [
    (0.6, 0.8, 0.118384), (0.8, 0.8, 0.0), (0.8, 0.6, 0.155532), (0.5, 0.9, 0.277259),
])  # fmt: skip
def test_quality_term_of_a_cell(student, teacher, expected):
    loss = quality_focal_loss(torch.tensor(student).double().logit(), torch.tensor(teacher), 1.0)
    assert_close(loss.item(), expected, atol=1e-6, rtol=0)


def two_cells():
    """Outputs of one image, one level and two cells, V = (0.8, 0.1).

    Student bins are uniform over two; with teacher bins (a, 1 - a), KL = ln 2 - H(a).
    """
    a = torch.tensor([0.888649, 0.953149], dtype=torch.float64)
    teacher_bins = torch.stack([a, 1 - a], -1).log()[None, :, None].expand(1, 2, 4, 2)
    fields = {
        "images": None, "adapter": None, "features": {}, "valid": {8: torch.ones(1, 2) > 0},
        "labels": torch.tensor([[0, 1]]), "num_pos": torch.tensor(1.0),
    }  # fmt: skip
    student = DetectorOutput(
        **fields, distributions={8: torch.zeros(1, 2, 4, 2).double()},
        quality={8: torch.tensor([0.6, 0.5]).double().logit().view(1, 2, 1)},
    )  # fmt: skip
    teacher = DetectorOutput(
        **fields, distributions={8: teacher_bins},
        scores={8: torch.tensor([0.8, 0.1]).view(1, 2, 1)},
        quality={8: torch.tensor([0.8, 0.9]).double().logit().view(1, 2, 1)},
    )  # fmt: skip
    return student, teacher


def entropy_gap(a):
    return (torch.tensor([a, 1 - a]).double() * (2 * torch.tensor([a, 1 - a]).double()).log()).sum()


def test_location_and_quality_terms_of_two_cells():
    """L_B = (0.8 KL_1 + 0.1 KL_2) / Z, L_C = (0.8 * 0.118384 + 0.1 * 0.277259) / Z, Z = 0.9 or 1.

    With KL = (0.3, 0.5) and quality terms (0.05, 0.2) this is 0.322222, 0.066667 and
    4 L_B + L_C = 1.355556 for Z = 0.9.
    """
    student, teacher = two_cells()
    kl = [float(entropy_gap(a)) for a in (0.888649, 0.953149)]
    for floor, z in ((0.0, 0.9), (1.0, 1.0)):
        head = Parallel(*specs(), cls_weight=0.0, floor=floor)
        losses = head(student, teacher)
        expected = 4 * (0.8 * kl[0] + 0.1 * kl[1]) / z
        assert_close(losses["loc"].item(), expected, atol=1e-5, rtol=0)
        expected = (0.8 * 0.118384 + 0.1 * 0.277259) / z
        assert_close(losses["quality"].item(), expected, atol=1e-6, rtol=0)
    voltage, total = Parallel(*specs(), floor=0.0)._voltage(teacher, torch.ones(1, 2) > 0)
    loc = (voltage * torch.tensor([[0.3, 0.5]])).sum() / total
    quality = (voltage * torch.tensor([[0.05, 0.2]])).sum() / total
    found = torch.stack([loc, quality, 4 * loc + quality])
    assert_close(found, torch.tensor([0.322222, 0.066667, 1.355556]), atol=1e-6, rtol=0)


def gradients(options):
    student, model = model_of(options)
    losses = model(make_batch())
    sum(v for k, v in losses.items() if "Parallel" in k).backward()
    return {n: p.grad for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}


def alone(branch):
    return {key: 0.0 for name, key in BRANCHES.items() if name != branch}


def test_the_gradient_of_the_sum_is_the_sum_of_the_gradients():
    whole = gradients({})
    parts = [gradients(alone(branch)) for branch in BRANCHES]
    assert set(whole) == set().union(*parts)
    for name, value in whole.items():
        summed = sum(part[name] for part in parts if name in part)
        assert_close(value, summed, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("branch", "moved"), [
    ("cls", ("head.cls_subnet.", "head.cls_score.")),
    ("loc", ("head.bbox_subnet.", "head.bbox_pred.", "head.scales.")),
    ("quality", ("head.bbox_subnet.", "head.bbox_pred.", "head.scales.", "head.reg_conf.")),
])  # fmt: skip
def test_a_branch_moves_only_its_own_modules(branch, moved):
    names = {name for name in gradients(alone(branch)) if name.startswith("head.")}
    assert all(name.startswith(moved) for name in names)
    assert {part for part in moved for name in names if name.startswith(part)} == set(moved)


def test_equal_detectors_give_zero():
    _, model = model_of()
    model.teachers[0].detector.load_state_dict(model.student.state_dict())
    losses = model(make_batch())
    for name in ("loc", "quality"):
        assert_close(losses[f"loss_Parallel_{name}"].item(), 0.0, atol=1e-6, rtol=0)
    assert losses["loss_Parallel_cls"].item() == 0


def test_threshold_keeps_confident_locations_only():
    head, student, teacher = outputs()
    scores = torch.cat(list(teacher.scores.values()), 1).amax(-1)
    valid = torch.cat(list(student.valid.values()), 1)
    head.threshold = float(scores[valid].quantile(0.9))
    voltage, total = head._voltage(teacher, valid)
    assert_close(voltage, scores * (valid & (scores > head.threshold)))
    assert_close(total, voltage.sum().clamp(min=1))
    assert 0 < int(voltage.count_nonzero()) < int(valid.sum())


@pytest.mark.parametrize("teacher", ["SDGQP", "DGQP", "none"])
def test_teachers_with_and_without_quality(teacher):
    student = detector("GFL", **SDGQP)
    other = detector("GFL", seed=1, MODEL__GFL__QUALITY=teacher)
    model = distill(student, [other], ("Parallel",)).train()
    losses = model(make_batch())
    assert float(losses["loss_Parallel_quality"]) > 0
    assert model.heads["Parallel"].iou_target == (teacher == "none")
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in student.parameters())


def test_the_overlap_of_the_teachers_boxes_is_a_target_on_positives():
    head, student, teacher = outputs({"QUALITY_TARGET": "iou"})
    target, known = head._quality_target(student, teacher)
    positive = (student.labels >= 0) & (student.labels < 3)
    assert bool(positive.any()) and torch.equal(known > 0, positive)
    assert not target[~positive].any() and float(target.max()) <= 1
    perfect = {8: student.matched_boxes}
    teacher.adapter = type("Decoder", (), {"decode": staticmethod(lambda _: perfect)})
    target, _ = head._quality_target(student, teacher)
    assert_close(target[positive], torch.ones_like(target[positive]))


def test_series_gates_by_class_and_by_box():
    head, student, teacher = outputs()
    by_class, by_box = head._gates(student, teacher)
    agree = torch.cat([
        a.argmax(-1) == b.argmax(-1)
        for a, b in zip(student.logits.values(), teacher.logits.values(), strict=True)
    ], 1)  # fmt: skip
    assert torch.equal(by_class > 0, agree) and bool(agree.any()) and not bool(agree.all())
    assert bool((by_box <= by_class).all())
    parallel = head(student, teacher)
    head.series = True
    series = head(student, teacher)
    assert_close(series["cls"], parallel["cls"])
    assert 0 < float(series["loc"]) < float(parallel["loc"])
    assert float(series["quality"]) <= float(parallel["quality"])


def test_the_class_branch_can_share_the_weight():
    head, student, teacher = outputs()
    head.shared_weight = True
    voltage, total = head._voltage(teacher, torch.cat(list(student.valid.values()), 1))
    z_s, z_t = (torch.cat(list(x.logits.values()), 1) for x in (student, teacher))
    gap = (z_t.sigmoid() - z_s.sigmoid()).abs()
    bce = torch.nn.functional.binary_cross_entropy_with_logits(z_s, z_t.sigmoid(), reduction="none")
    expected = ((gap * bce).sum(-1) * voltage).sum() / total
    assert_close(head(student, teacher)["cls"], expected)


def test_it_adds_to_a_feature_head():
    _, model = pair("GFL", ("Parallel", "PKD"), 8, **SDGQP)
    losses = model(make_batch())
    assert {
        "loss_Parallel_cls",
        "loss_Parallel_loc",
        "loss_Parallel_quality",
        "loss_PKD_feat",
    } <= set(losses)


def test_errors():
    with pytest.raises(ValueError, match=r"needs a student that predicts quality.*QUALITY_WEIGHT"):
        Parallel(*specs("none"))
    Parallel(*specs("none"), quality_weight=0.0)
    with pytest.raises(
        ValueError, match=r"QUALITY_TARGET is teacher, but the teacher GFL predicts"
    ):
        Parallel(*specs("SDGQP", "none"), quality_target="teacher")
    with pytest.raises(ValueError, match="DISTILL.Parallel.MODE"):
        Parallel(*specs(), mode="circuit")
    with pytest.raises(ValueError, match="DISTILL.Parallel.LOC_WEIGHT must be at least 0"):
        Parallel(*specs(), loc_weight=-1.0)
    with pytest.raises(ValueError, match="bins 0 to 16 and the teacher 0 to 8"):
        teacher = detector("GFL", MODEL__GFL__REG_MAX=8, **SDGQP)
        distill(detector("GFL", **SDGQP), [teacher], ("Parallel",))
    with pytest.raises(ValueError, match="Parallel needs distributions"):
        pair("ATSS", ("Parallel",), 8)
