"""Keys without effect are said in one line; test-time augmentation, which is not there, refused."""

import pytest

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_options
from d2kd.config.unread import say_unread_keys
from d2kd.config.validate import check_config
from d2kd.errors import ConfigError
from tests.helpers import d2kd, write_config


def said(caplog, *options, detector="GFL", heads=()):
    """Keys that are said, of the command line and then of the whole config."""
    caplog.clear()
    cfg = get_d2kd_cfg()
    cfg.MODEL.META_ARCHITECTURE = "Distiller" if heads else detector
    cfg.DISTILL.STUDENT, cfg.DISTILL.HEADS = detector if heads else "", heads
    merge_options(cfg, options)
    typed = len(caplog.records)
    say_unread_keys(cfg)
    assert all("\n" not in record.getMessage() for record in caplog.records)
    lines = [record.getMessage() for record in caplog.records]
    return " ".join(lines[:typed]), " ".join(lines[typed:])


def test_keys_of_other_detectors_and_methods_that_are_typed(caplog):
    typed, _ = said(caplog, "MODEL.RETINANET.NUM_CONVS", "2", "MODEL.RPN.NMS_THRESH", "0.5",
                    "MODEL.RETINANET.NUM_CLASSES", "5", "MODEL.GFL.NUM_CONVS", "2")  # fmt: skip
    assert typed.endswith(": MODEL.RPN.NMS_THRESH, MODEL.RETINANET.NUM_CONVS.") or typed.endswith(
        ": MODEL.RETINANET.NUM_CONVS, MODEL.RPN.NMS_THRESH."
    )
    typed, whole = said(caplog, "DISTILL.CWD.WEIGHT", "2.0", "DISTILL.PKD.WEIGHT", "2.0",
                        "VIS_PERIOD", "20", heads=("PKD",))  # fmt: skip
    assert typed.endswith(": DISTILL.CWD.WEIGHT.") and whole.endswith(": VIS_PERIOD.")
    rcnn = said(caplog, "MODEL.RPN.NMS_THRESH", "0.5", detector="GeneralizedRCNN")
    assert rcnn == ("", "")


@pytest.mark.parametrize("detector", ["AutoAssign", "FCOS", "RepPoints", "GFL", "RetinaNet"])
def test_anchors_of_detectors_that_place_cells_by_strides(caplog, detector):
    sizes = "MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16], [32], [64], [128]]"
    typed, whole = said(caplog, *sizes, detector=detector)
    assert whole == "" and typed.endswith(f": {sizes[0]}.") == (
        detector not in ("GFL", "RetinaNet")
    )
    moved = "MODEL.ANCHOR_GENERATOR.NAME", "TorchvisionAnchorGenerator"
    assert detector != "FCOS" or said(caplog, *moved, *sizes, detector=detector) == ("", "")


@pytest.mark.parametrize(("options", "read"), [
    (["DISTILL.HEADS", "('PKD',)"],
     ["MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", "GFL"]),
    (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "35.0"], ["SOLVER.CLIP_GRADIENTS.ENABLED", "True"]),
    (["SOLVER.BASE_LR_END", "0.1"], ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]),
    (["DATALOADER.REPEAT_THRESHOLD", "0.1"],
     ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]),
    (["INPUT.CROP.TYPE", "absolute"], ["INPUT.CROP.ENABLED", "True"]),
    (["MODEL.TIMM.NAME", "resnet50"], ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"]),
    (["MODEL.TIMM.STRIDE", "32"], ["MODEL.BACKBONE.NAME", "build_timm_extractor_backbone"]),
    (["DISTILL.BALANCE.BAND", "0.1"],
     ["MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", "GFL",
      "DISTILL.BALANCE.SHARES", "(0.1,)"]),
    (["DISTILL.TEACHER.THREADS", "2"],
     ["MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", "GFL", "MODEL.DEVICE", "cpu",
      "DISTILL.TEACHER.AHEAD", "1"]),
    (["DISTILL.TEACHER.DEADLINE", "9.0"],
     ["MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", "GFL", "MODEL.DEVICE", "cuda",
      "DISTILL.TEACHER.AHEAD", "1", "DISTILL.TEACHER.DEVICE", "cuda:1"]),
    (["TEST.AUG.FLIP", "False"], None),
    (["MODEL.SEM_SEG_HEAD.NORM", "BN"], None),
])  # fmt: skip
def test_keys_that_another_key_switches_on(caplog, options, read):
    assert said(caplog, *options)[1].endswith(f": {options[0]}.")
    if read:
        assert said(caplog, *options, *read) == ("", "")


def test_on_the_students_gpu_a_teacher_has_no_process(caplog):
    keys = ["DISTILL.TEACHER.THREADS", "DISTILL.TEACHER.DEADLINE"]
    options = [keys[0], "2", keys[1], "9.0", "DISTILL.TEACHER.AHEAD", "1", "MODEL.DEVICE", "cuda"]
    whole = said(caplog, *options, heads=("PKD",))[1]
    assert all(key in whole for key in keys) and "DISTILL.TEACHER.AHEAD" not in whole


def test_detectors_that_are_not_known_here(caplog):
    assert said(caplog, "MODEL.SEM_SEG_HEAD.NORM", "BN", detector="PanopticFPN") == ("", "")


def test_test_time_augmentation_is_refused(tmp_path, squares):
    with pytest.raises(ConfigError, match="TEST.AUG.ENABLED is True, but d2kd evaluates each"):
        cfg = get_d2kd_cfg()
        cfg.TEST.AUG.ENABLED = True
        check_config(cfg)
    path = write_config(tmp_path, squares)
    for command in (["train"], ["eval", "--weights", "x.pth"], ["check"]):
        done = d2kd(command[0], path, *command[1:], "TEST.AUG.ENABLED", "True")
        assert "TEST.AUG.ENABLED is True" in str(done.exception) and done.exit_code
