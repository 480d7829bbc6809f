"""Methods that users put together, on every detector that takes both."""

import pytest

from d2kd import Teacher
from d2kd.heads import DISTILLATION_HEAD_REGISTRY
from d2kd.inspection.combinations import DETECTORS, tiny_adapter
from d2kd.testing import make_batch
from tests.helpers import distill

TOGETHER = (("FGD", "CrossKD"), ("CanKD", "BCKD"), ("VFM", "PKD"), ("SetKD", "PKD"))
CROSS_KD = {"CrossKD": {"BLOCK": 1}}  # tiny towers have two


def losses(student, teacher, heads):
    """Terms of one step, or None where a detector lacks what a method reads."""
    try:
        model = distill(student, [teacher], heads, options=CROSS_KD).train()
    except ValueError as error:
        assert "DISTILL.HEADS" in str(error)
        return None
    terms = {k: v for k, v in model(make_batch()).items() if k.split("_")[1] in heads}
    sum(terms.values()).backward()
    return terms


@pytest.mark.parametrize("heads", TOGETHER, ids="+".join)
def test_methods_work_together(heads):
    trained = []
    for name in DETECTORS:
        terms = losses(tiny_adapter(name).detector, tiny_adapter(name).detector, heads)
        if terms is not None:
            assert {k.split("_")[1] for k in terms} == set(heads), name
            assert all(v.isfinite() for v in terms.values()), name
            trained.append(name)
    expected = set(DETECTORS)
    if {"CrossKD", "BCKD", "SetKD"} & set(heads):
        expected -= {"AutoAssign"}  # which has no labels, if not asked for
    if {"CrossKD", "BCKD"} & set(heads):
        expected = {x for x in expected if "R-CNN" not in x}
    assert set(trained) == expected


@pytest.mark.parametrize("name", sorted(dict(iter(DISTILLATION_HEAD_REGISTRY))))
def test_a_teacher_of_half_precision(name):
    """AMP is off: the student and the methods' own layers are in float32."""
    detectors = {"RoIKD": "Faster R-CNN", "MaskKD": "Mask R-CNN", "Parallel": "GFLv2"}
    meta = detectors.get(name, "GFL")
    teacher = Teacher(tiny_adapter(meta).detector, precision="bf16")
    terms = losses(tiny_adapter(meta).detector, teacher, [name])
    assert terms and all(v.isfinite() for v in terms.values())


@pytest.mark.parametrize("heads", TOGETHER[2:], ids="+".join)
@pytest.mark.parametrize("teacher", ["FCOS", "Cascade R-CNN"])
def test_methods_work_together_with_a_teacher_of_another_family(heads, teacher):
    for name in ("RetinaNet", "GFL", "Faster R-CNN"):
        terms = losses(tiny_adapter(name).detector, tiny_adapter(teacher).detector, heads)
        assert {k.split("_")[1] for k in terms} == set(heads), name
