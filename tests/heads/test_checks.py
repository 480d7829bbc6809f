"""What a head needs and a detector does not provide is said when the model is built."""

import pytest

from d2kd import DISTILLATION_HEAD_REGISTRY, DistillationHead, build_adapter
from d2kd.heads import build_head, head_defaults
from d2kd.heads.base import check_specs
from tests.helpers import detector


def build(name, student, teacher):
    node = {k.upper(): v for k, v in head_defaults(DISTILLATION_HEAD_REGISTRY.get(name)).items()}
    return build_head(name, node, build_adapter(student), build_adapter(teacher))


def test_requires_and_provides():
    text = r"BCKD needs .*logits.*; student GeneralizedRCNN provides features.*one of: .*PKD"
    with pytest.raises(ValueError, match=text):
        build("BCKD", detector("GeneralizedRCNN"), detector())
    with pytest.raises(ValueError, match="teacher GeneralizedRCNN provides"):
        build("BCKD", detector(), detector("GeneralizedRCNN"))


def test_class_counts():
    other = detector(MODEL__RETINANET__NUM_CLASSES=7)
    with pytest.raises(ValueError, match="student has 3 classes and the teacher 7"):
        build("BCKD", detector(), other)
    build("PKD", detector(), other)


def test_anchors_and_levels():
    with pytest.raises(ValueError, match="2 anchors a cell and the teacher .* with 1"):
        build("BCKD", detector(), detector("FCOS"))
    fewer = detector(MODEL__RETINANET__IN_FEATURES=["p3", "p4"],
                     MODEL__ANCHOR_GENERATOR__SIZES=[[32], [64]])  # fmt: skip
    with pytest.raises(ValueError, match=r"strides \[8, 16, 32, 64, 128\].*teacher \[8, 16\]"):
        build("BCKD", detector(), fewer)


@pytest.mark.parametrize("meta", ["FCOS", "RepPoints"])
def test_anchors_that_the_student_does_not_read_are_no_advice(meta):
    with pytest.raises(ValueError, match="with 2. Use a head that reads features only") as error:
        build("PGD", detector(meta), detector())
    assert "ANCHOR_GENERATOR" not in str(error.value)


def test_bins_of_box_distributions():
    specs = [build_adapter(detector("GFL", MODEL__GFL__REG_MAX=n)).spec() for n in (16, 8)]
    with pytest.raises(ValueError, match="bins 0 to 16 and the teacher 0 to 8.*MODEL.GFL.REG_MAX"):
        check_specs("Mine", frozenset({"distributions"}), *specs)
    check_specs("Mine", frozenset({"deltas"}), *specs)
    build("BCKD", detector("GFL", MODEL__GFL__REG_MAX=16), detector("GFL", MODEL__GFL__REG_MAX=8))


def test_what_gfl_and_atss_provide():
    plain, joint = (build_adapter(detector("GFL", MODEL__GFL__QUALITY=q)) for q in ("none", "DGQP"))
    assert joint.provides - plain.provides == {"quality"}
    atss = build_adapter(detector("ATSS"))
    assert plain.provides - atss.provides == {"distributions"}
    assert (atss.spec().quality, joint.spec().quality, plain.spec().quality) == (
        "centerness", "DGQP", "",
    )  # fmt: skip
    assert (plain.spec().reg_max, atss.spec().reg_max) == (16, 0)


def test_defaults_come_from_the_signature():
    class Mine(DistillationHead):
        def __init__(self, student, teacher, *, alpha: float = 0.5, levels: tuple = (8,)):
            super().__init__()

    assert head_defaults(Mine) == {"alpha": 0.5, "levels": (8,)}
