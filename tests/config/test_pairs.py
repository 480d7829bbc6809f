"""What --teacher switches on by itself."""

import logging

import pytest
import yaml

from d2kd.config.loading import load_config
from d2kd.config.pairs import default_methods
from d2kd.engine.command_line import argument_parser, resolve_config
from d2kd.testing import tiny_cfg
from tests.conftest import ROOT

OWN = ROOT / "configs" / "own"
KINDS = {
    "one dense family": ("student", "teacher", ("CrossKD", "PKD"), "neck+head"),
    "two-stage": ("student_faster", "teacher_faster", ("PKD", "RoIKD"), "neck+head"),
    "masks": ("student_mask", "teacher_mask", ("PKD", "RoIKD"), "neck+head"),
    "dense from two-stage": ("student", "teacher_faster", ("PKD",), "neck"),
    "two-stage from dense": ("student_faster", "teacher", ("PKD",), "neck"),
}


def resolved(student, teacher, *opts, distill=(), **more):
    paths = [f"{x}.yaml" if "COCO" in x else f"{OWN / x}.yaml" for x in (student, teacher)]
    args = argument_parser().parse_args(["--config-file", paths[0]])
    args.teacher, args.distill, args.opts = paths[1:], list(distill), list(opts)
    for key, value in more.items():
        setattr(args, key, value)
    return resolve_config(args).DISTILL


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_pairs(kind):
    student, teacher, methods, inherited = KINDS[kind]
    found = resolved(student, teacher)
    assert found.HEADS == methods and found.INIT_FROM_TEACHER == inherited
    assert found.BALANCE.SHARES == (0.5 / len(methods),) and found.BALANCE.PERIOD == 10


def test_other_classes_compare_features_alone():
    assert resolved("student", "teacher", "MODEL.GFL.NUM_CLASSES", "3").HEADS == ("PKD",)


C4, FPN = "COCO-Detection/faster_rcnn_R_50_C4_1x", "COCO-Detection/faster_rcnn_R_50_FPN_1x"


@pytest.mark.parametrize("student, teacher, typed", [
    (C4, FPN, ()), (FPN, C4, ()),
    (FPN, FPN, ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", "True")),
    (FPN, FPN, ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True")),
    ("student", "teacher", ("MODEL.GFL.REG_MAX", "8")),
    ("student", "teacher", ("MODEL.GFL.IN_FEATURES", "('p3', 'p4', 'p5')")),
    ("student", "teacher", ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.5, 1.0]]")),
])  # fmt: skip
def test_predictions_that_cannot_be_compared_leave_features(student, teacher, typed):
    assert resolved(student, teacher, *typed).HEADS == ("PKD",)


@pytest.mark.parametrize("meta", ["FCOS", "RepPoints", "ATSS"])
def test_anchors_count_where_they_are_read(meta):
    cfg, teacher = tiny_cfg(meta), tiny_cfg(meta)
    cfg.DISTILL.STUDENT = meta
    teacher.MODEL.ANCHOR_GENERATOR.SIZES = [[8 * 2**n] for n in range(3, 8)]
    expected = ("PKD",) if meta == "ATSS" else ("CrossKD", "PKD")
    assert default_methods(cfg, teacher) == expected


def test_two_dense_families_compare_features_alone(tmp_path):
    path = tmp_path / "fcos.yaml"
    base = {"_BASE_": f"{OWN}/teacher.yaml", "MODEL": {"META_ARCHITECTURE": "ATSS"}}
    path.write_text(yaml.safe_dump(base))
    found = resolved("student", "teacher", "DISTILL.TEACHER.CONFIG_FILES", f"('{path}',)")
    assert found.HEADS == ("PKD",) and found.INIT_FROM_TEACHER == "neck"


def test_the_share_of_a_foundation_model_has_to_be_chosen(caplog):
    with caplog.at_level(logging.INFO, "d2kd"):
        found = resolved("student", "teacher", distill=["VFM"])
    assert found.BALANCE.SHARES == () and found.BALANCE.PERIOD == 0
    assert "the share of VFM has to be chosen, but the weights are DISTILL.VFM.WEIGHT 5.0" in (
        caplog.text
    )
    shares = "DISTILL.BALANCE.SHARES", "(0.1,)"
    found = resolved("student", "teacher", *shares, distill=["VFM"])
    assert found.BALANCE.SHARES == (0.1,) and found.BALANCE.PERIOD == 10


def test_what_is_typed_stays():
    found = resolved("student", "teacher", "DISTILL.BCKD.WEIGHT", "2.0", distill=["BCKD,LD"])
    assert found.HEADS == ("BCKD", "LD") and found.BALANCE.SHARES == ()
    shares = resolved("student", "teacher", "DISTILL.BALANCE.SHARES", "(0.1,)",
                      "DISTILL.INIT_FROM_TEACHER", "none")  # fmt: skip
    assert shares.BALANCE.SHARES == (0.1,) and shares.INIT_FROM_TEACHER == "none"
    assert shares.BALANCE.PERIOD == 10
    published = resolved("student", "teacher", "DISTILL.BALANCE.SHARES", "()")
    assert published.BALANCE.SHARES == () and published.BALANCE.PERIOD == 0


def file_of(folder, base, **distill):
    """The name, for `resolved`, of a plain config of one's own."""
    keys = {"_BASE_": f"{OWN}/{base}.yaml", "DISTILL": distill}
    (folder / "mine.yaml").write_text(yaml.safe_dump(keys))
    return str(folder / "mine")


def test_what_is_written_stays_as_what_is_typed(tmp_path):
    teacher = {"CHECK_IMAGES": 0}
    mine = file_of(tmp_path, "student", PKD={"WEIGHT": 2.0}, TEACHER=teacher)
    found = resolved(mine, "teacher")
    assert found.BALANCE.SHARES == () and found.INIT_FROM_TEACHER == "neck+head"
    assert found.TEACHER.CHECK_IMAGES == 0
    shares = {"SHARES": [0.1]}
    mine = file_of(tmp_path, "student", BALANCE=shares, INIT_FROM_TEACHER="none")
    found = resolved(mine, "teacher")
    assert found.BALANCE.SHARES == (0.1,) and found.INIT_FROM_TEACHER == "none"
    mine = file_of(tmp_path, "student", INIT_FROM_TEACHER="neck")
    whole = load_config(f"{mine}.yaml", [])
    (tmp_path / "whole.yaml").write_text(whole.dump())  # as a run writes it: all keys
    found = resolved(str(tmp_path / "whole"), "teacher")
    assert found.BALANCE.SHARES == (0.25,) and found.INIT_FROM_TEACHER == "neck"
    assert found.TEACHER.CHECK_IMAGES == 100


@pytest.mark.parametrize("typed, why", [
    (["DISTILL.CrossKD.WEIGHT", "2.0"], "DISTILL.CrossKD.WEIGHT is given"),
    (["DISTILL.COMPILE", "True"], "DISTILL.COMPILE is True"),
    (["DISTILL.BALANCE.SHARES", "()"], "DISTILL.BALANCE.SHARES is empty"),
])  # fmt: skip
def test_without_shares_the_weights_are_said(typed, why, caplog):
    with caplog.at_level(logging.INFO, "d2kd"):
        resolved("student", "teacher", *typed)
    (line,) = [text for text in caplog.messages if "By --teacher" in text]
    crosskd = 2.0 if "WEIGHT" in why else 1.0
    assert line.endswith(f"; no shares of the gradient are held, since {why}, but the weights are "
                         f"DISTILL.CrossKD.WEIGHT {crosskd} DISTILL.PKD.WEIGHT 6.0")  # fmt: skip
    assert "DISTILL.INIT_FROM_TEACHER 'neck+head'" in line


@pytest.mark.parametrize("balance", [{"SHARES": [], "PERIOD": 0}, {"SHARES": [0.3]}])
def test_a_run_that_goes_on_keeps_its_methods(tmp_path, balance):
    """It was begun when --teacher chose others, or when there was no PERIOD."""
    begun = {"DISTILL": {"HEADS": ["PKD", "BCKD"], "INIT_FROM_TEACHER": "none",
                         "BALANCE": balance}}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(begun))
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    found = resolved("student", "teacher", "OUTPUT_DIR", str(tmp_path), resume=True)
    assert tuple(found.HEADS) == ("PKD", "BCKD") and found.INIT_FROM_TEACHER == "none"
    assert list(found.BALANCE.SHARES) == balance["SHARES"] and found.BALANCE.PERIOD == 0
