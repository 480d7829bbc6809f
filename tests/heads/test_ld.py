"""LD: terms against plain re-computations, normalizers, explained mistakes."""

import pytest
import torch
from torch.testing import assert_close

from d2kd import Teacher, build_adapter
from d2kd.heads import LD
from d2kd.heads.region import valuable_region
from d2kd.losses import softened_kl
from d2kd.testing import make_batch
from tests.helpers import detector, distill


def outputs(quality="none", boxes=5):
    """Student and teacher outputs of two GFL detectors of other weights, and both adapters."""
    models = [detector("GFL", seed=i, MODEL__GFL__QUALITY=quality) for i in range(2)]
    for model in models:
        torch.nn.init.normal_(model.head.bbox_pred.weight, std=0.5)
        torch.nn.init.normal_(model.head.cls_score.weight, std=0.5)
    model, batch = distill(models[0], [models[1]], ("LD",)).train(), make_batch(boxes=boxes)
    need = LD.requires
    return model.run_student(batch), Teacher(models[1])(batch, 32, "BGR", need), model


def cat(levels):
    return torch.cat(list(levels.values()), 1)


@pytest.mark.parametrize("quality", ["none", "DGQP"])
@pytest.mark.parametrize("norm", ["official_sum", "weight_sum"])
def test_terms_equal_a_plain_computation(quality, norm):
    student, teacher, model = outputs(quality)
    spec = build_adapter(model.student).spec()
    losses = LD(spec, spec, loc_weight=0.25, vlr_weight=0.5, cls_weight=10.0, temperature=10.0,
                norm=norm)(student, teacher)  # fmt: skip
    z_s, z_t, b_s, b_t = (
        cat(x) for x in
        (student.logits, teacher.logits, student.distributions, teacher.distributions)
    )  # fmt: skip
    scores = z_s.sigmoid() * (cat(student.quality).sigmoid() if quality == "DGQP" else 1)
    positive = (student.labels >= 0) & (student.labels < 3)
    u = scores.amax(-1).detach()
    bins = 17 if norm == "official_sum" else 1
    total = 1 if norm == "official_sum" else u[positive].sum()
    kl = softened_kl(b_s, b_t, 10.0).mean(-1) / bins
    assert_close(losses["loc"], 0.25 * (kl * u)[positive].sum() / total)
    region = valuable_region([x.tensor for x in student.anchors.values()], cat(student.valid),
                             [x.gt_boxes.tensor for x in student.gt])  # fmt: skip
    assert int((region > 0).sum()) > 5
    assert_close(losses["vlr"], 0.5 * (kl * region).sum() / 4 / total)
    expected, start = 0.0, 0
    for anchors in student.anchors.values():
        part = slice(start, start + len(anchors))
        start += len(anchors)
        rows = positive[:, part]
        if rows.any():
            expected += softened_kl(z_s[:, part][rows], z_t[:, part][rows], 2.0).mean() / 3
    assert_close(losses["cls"], 10 * expected)


def test_equal_detectors_give_zero():
    student, _, model = outputs()
    spec = build_adapter(model.student).spec()
    for value in LD(spec, spec, cls_weight=1.0)(student, student).values():
        assert_close(value, torch.zeros(()), atol=1e-5, rtol=0)


def test_images_without_objects():
    student, teacher, model = outputs(boxes=0)
    spec = build_adapter(model.student).spec()
    losses = LD(spec, spec, cls_weight=1.0)(student, teacher)
    assert [float(v) for v in losses.values()] == [0, 0, 0]
    sum(losses.values()).backward()
    assert model.student.head.bbox_pred.weight.grad is not None


def test_terms_of_weight_zero_are_not_computed():
    student, teacher, model = outputs()
    spec = build_adapter(model.student).spec()
    assert set(LD(spec, spec)(student, teacher)) == {"loc", "vlr"}
    assert set(LD(spec, spec, vlr_weight=0.0)(student, teacher)) == {"loc"}


@pytest.mark.parametrize(("options", "match"), [
    ({"loc_weight": -1.0}, "DISTILL.LD.LOC_WEIGHT must be at least 0"),
    ({"temperature": 0.0}, "DISTILL.LD.TEMPERATURE must be above 0"),
    ({"norm": "mean"}, "DISTILL.LD.NORM: unknown 'mean'.*official_sum, weight_sum"),
    ({"overlap": "giou"}, "DISTILL.LD.OVERLAP"),
])  # fmt: skip
def test_mistakes_are_explained(options, match):
    spec = build_adapter(detector("GFL")).spec()
    with pytest.raises(ValueError, match=match):
        LD(spec, spec, **options)


def test_detectors_without_distributions_are_refused():
    with pytest.raises(ValueError, match="LD needs distributions; student ATSS provides"):
        distill(detector("ATSS"), [detector("ATSS")], ("LD",))
