"""Pixels that weights were trained on, and sizes that teachers know, against those in use."""

import pytest

from d2kd.config.loading import load_config
from d2kd.evaluation.inputs import pixel_doubt, teacher_doubts
from tests.conftest import ROOT
from tests.helpers import d2kd, write_config

LITE = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME",
        "tf_efficientnet_lite0", "MODEL.TIMM.PRETRAINED", "True", "MODEL.WEIGHTS", ""]  # fmt: skip
RIGHT = ("INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]",
         "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]")  # fmt: skip
STOCK = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


def doubt(*options, weights="", config=STOCK):
    return pixel_doubt(load_config(config, options), weights, "MODEL.WEIGHTS", "type")


def test_timm_weights_tell_what_to_type():
    pytest.importorskip("timm")
    text = doubt(*LITE)
    typed = text[text.index("type ") :]
    assert "MODEL.TIMM.NAME tf_efficientnet_lite0" in text and "\n" not in text
    assert 'INPUT.FORMAT RGB MODEL.PIXEL_MEAN "[127.5, 127.5, 127.5]" MODEL.PIXEL_STD' in typed
    assert doubt(*LITE, *RIGHT) == ""
    assert doubt(*LITE, *RIGHT, "INPUT.FORMAT", "BGR")  # the channel order alone
    assert doubt(*LITE, "MODEL.TIMM.PRETRAINED", "False") == ""  # from scratch any will do


@pytest.mark.parametrize(("source", "fits"), [("MSRA", True), ("torchvision", False)])
def test_weights_of_detectron2(source, fits):
    address = f"detectron2://ImageNetPretrained/{source}/R-50.pkl"
    assert (doubt(weights=address) == "") is fits
    ours = str(ROOT / "configs" / "detectors" / "gfl_R_50_FPN.yaml")
    assert (doubt(weights=address, config=ours) == "") is not fits


def test_a_run_is_asked_for_its_record(tmp_path, squares):
    path = write_config(tmp_path, squares, INPUT__FORMAT="RGB")
    weights = tmp_path / "run" / "model_final.pth"
    assert doubt(weights=str(weights)) == ""  # nothing is known
    weights.parent.mkdir()
    record = weights.parent / "config.yaml"
    record.write_text(path.read_text())
    assert "type INPUT.FORMAT RGB MODEL.PIXEL_MEAN" in doubt(weights=f"{weights}#sha256=12")
    record.write_text("INPUT: 3\nMODEL: [1]\n")
    assert doubt(weights=str(weights)) == ""


def distilled(tmp_path, squares, **keys):
    teacher = write_config(tmp_path / "teacher", squares, **keys)
    return load_config(str(write_config(tmp_path, squares)), [
        "DISTILL.TEACHER.CONFIG_FILES", f"('{teacher}',)",
        "DISTILL.TEACHER.WEIGHTS", "('teacher.pth',)"])  # fmt: skip


@pytest.mark.parametrize(("size", "said"), [(64, ""), (90, ""), (256, "4.0 times smaller"),
                                           (32, "2.0 times larger"), (0, "")])  # fmt: skip
def test_a_teacher_of_other_sizes(tmp_path, squares, size, said):
    found = teacher_doubts(distilled(tmp_path, squares, INPUT__MIN_SIZE_TEST=size), 0)
    assert len(found) == bool(said) and all(said in text for text in found)


def test_training_and_check_say_it(tmp_path, squares):
    """A start from a run of RGB images on BGR ones; the run goes on."""
    first = write_config(tmp_path / "first", squares, INPUT__FORMAT="RGB", SOLVER__MAX_ITER=1)
    assert d2kd("train", first).exit_code == 0
    start = ["MODEL.WEIGHTS", tmp_path / "first" / "out" / "model_final.pth"]
    path = write_config(tmp_path, squares, SOLVER__MAX_ITER=1)
    done = d2kd("check", path, *start)
    assert "Warning: MODEL.WEIGHTS" in done.output and "type INPUT.FORMAT RGB" in done.output
    assert d2kd("train", path, *start).exit_code == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("trained on other pixels than these (INPUT.FORMAT BGR") == 1
    assert log.count("has 12 images: on fewer than 50, AP moves by several points") == 1
