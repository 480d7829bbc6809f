"""The command d2kd on real runs: one key, repeating, checking, predicting, converting."""

import json
import math
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import load_config
from d2kd.config.naming import construct
from d2kd.inference.predict import class_names
from d2kd.inspection.checkup import weights_at_start
from d2kd.inspection.combinations import DETECTORS
from d2kd.inspection.trial_step import Measured, find_problems, gradient_shares
from tests.helpers import d2kd, detector, write_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory, squares):
    """A data set's folder; runs of a teacher, and of a student distilled from it by one key."""
    at = tmp_path_factory.mktemp("cli")
    shutil.copytree(squares, at / "cells")
    (at / "cells" / "squares.json").rename(at / "cells" / "train.json")
    shutil.copy(at / "cells" / "train.json", at / "cells" / "val.json")
    config = write_config(at, squares, MODEL__RETINANET__NUM_CLASSES=80)
    wide = write_config(at / "wide", squares, MODEL__FPN__OUT_CHANNELS=12)
    data = ["--data", at / "cells"]
    done = d2kd("train", wide, *data, "--output", at / "teacher")
    assert done.exit_code == 0, done.output[-500:]
    done = d2kd("train", config, *data, "--output", at / "student", "--teacher", at / "teacher")
    assert done.exit_code == 0, done.output[-500:]
    return at


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_one_key_distils_with_defaults(runs):
    """The plain yaml of 80 classes takes the data's two; the family's methods; the last weights."""
    cfg = get_d2kd_cfg()
    cfg.merge_from_file(str(runs / "student" / "config.yaml"))
    assert cfg.MODEL.META_ARCHITECTURE == "Distiller" and cfg.DISTILL.STUDENT == "RetinaNet"
    assert list(cfg.DISTILL.HEADS) == ["CrossKD", "PKD"]
    assert cfg.DISTILL.BALANCE.SHARES == (0.25,) and cfg.DISTILL.INIT_FROM_TEACHER == "neck+head"
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 2
    assert cfg.DATASETS.TRAIN == ("cells_train",) and cfg.DATASETS.TEST == ("cells_val",)
    row = json.loads((runs / "student" / "metrics.json").read_text().splitlines()[0])
    assert row["loss_PKD_feat"] > 0 and row["loss_CrossKD_cls"] > 0
    record = json.loads((runs / "student" / "run.json").read_text())
    assert list(record["weights"]) == [str(runs / "teacher" / "model_final.pth")]


def test_the_saved_config_repeats_the_run(runs, tmp_path):
    done = d2kd("train", runs / "student", "--output", tmp_path / "again")
    assert done.exit_code == 0, done.output[-500:]
    assert_close(weights(tmp_path / "again"), weights(runs / "student"), rtol=0, atol=0)


def test_another_family_gets_what_suits_every_pair(runs, squares, tmp_path):
    fcos = write_config(tmp_path, squares, "FCOS", SOLVER__MAX_ITER=1)
    done = d2kd("train", fcos, "--teacher", runs / "teacher", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output[-500:]
    cfg = get_d2kd_cfg()
    cfg.merge_from_file(str(tmp_path / "out" / "config.yaml"))
    assert list(cfg.DISTILL.HEADS) == ["PKD"]


def test_eval_of_a_run(runs):
    before = (runs / "student" / "config.yaml").read_bytes()
    done = d2kd("eval", runs / "student")
    assert done.exit_code == 0, done.output[-500:]
    found, trained = (json.loads((runs / "student" / x / "results.json").read_text())["results"]
                      for x in ("eval", "."))  # fmt: skip
    assert found == trained
    assert (runs / "student" / "config.yaml").read_bytes() == before


def test_the_trunk_has_weights_of_its_own():
    trunk, stock = "datasets/weights/tf_efficientnet_lite0.safetensors", "build_resnet_fpn_backbone"
    for changes, said in (
        ([], f"trunk: {trunk}"),
        (["MODEL.TIMM.CHECKPOINT", ""], "random"),
        (["MODEL.BACKBONE.NAME", stock], "random"),
        (["MODEL.WEIGHTS", "a.pth"], "a.pth"),
    ):
        assert weights_at_start(load_config("own/student.yaml", changes)) == said


def test_check(runs, squares, tmp_path):
    plain = write_config(tmp_path, squares)
    done = d2kd("check", plain, "--teacher", runs / "teacher", "--distill", "PKD")
    assert done.exit_code == 0, done.output
    for part in ("student", "teacher 0", str(runs / "teacher" / "model_final.pth"), "features",
                 "loss_PKD_feat", "backward and update", "12 training images",
                 "\nData "):  # fmt: skip
        assert part in done.output, part
    assert not (tmp_path / "out").exists()
    done = d2kd("check", plain, "--teacher", runs / "teacher", "--distill", "PKD",
                "DISTILL.BALANCE.SHARES", "(0.98,)")  # fmt: skip
    share = re.search(r"second step, whose weights hold.*loss_PKD_feat +\S+ +(\d+)%", done.output,
                      re.DOTALL)  # fmt: skip
    assert int(share[1]) > 90 and "No problem found." in done.output, done.output
    done = d2kd("check", plain, "--teacher", runs / "teacher", "--distill", "PKD",
                "DISTILL.PKD.WEIGHT", "1e9")  # fmt: skip
    assert (
        "Problem: loss_PKD_feat has 100% of the gradient: lower DISTILL.PKD.WEIGHT" in done.output
    )
    done = d2kd("check", plain, "--teacher", runs / "teacher", "--distill", "PKD,CWD",
                "DISTILL.PKD.WEIGHT", "0.0")  # fmt: skip
    assert "Problem: loss_PKD_feat has no gradient" in done.output
    done = d2kd("check", plain)
    assert "A plain RetinaNet" in done.output and "No problem found." in done.output
    done = d2kd("check", plain, "SOLVER.BASE_LR", "1e15")
    assert "Problem: loss_cls is nan in step 2: lower SOLVER.BASE_LR." in done.output, done.output


def test_methods_and_detectors():
    table = d2kd("methods").output
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if "yes" in line}
    assert rows["PKD"] == ["yes"] * len(DETECTORS)
    assert rows["MaskKD"] == ["-"] * (len(DETECTORS) - 2) + ["yes"] * 2
    assert rows["LD"] == ["yes" if x.startswith("GFL") else "-" for x in DETECTORS]
    assert "DISTILL.PKD.NUM_LEVELS  4" in d2kd("methods", "PKD").output
    assert "train/gfl_R_50_FPN_1x.yaml" in d2kd("detectors").output


def video(path, frames=3):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), 60 * index, np.uint8))
    writer.release()


def test_predict(runs, tmp_path):
    images = sorted((runs / "cells").glob("*.png")) or sorted((runs / "cells").glob("*.jpg"))
    (tmp_path / "photos" / "more").mkdir(parents=True)
    shutil.copy(images[0], tmp_path / "photos" / "more")
    done = d2kd("predict", runs / "student", tmp_path / "photos", "--threshold", "0",
                "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
                "--output", tmp_path / "out", "--coco", tmp_path / "found.json")  # fmt: skip
    assert done.exit_code == 0, done.output[-500:]
    assert (tmp_path / "out" / "more" / f"{images[0].stem}.png").is_file()
    coco = json.loads((tmp_path / "found.json").read_text())
    assert len(coco["categories"]) == 2
    assert coco["images"][0]["file_name"] == f"more/{images[0].name}"
    assert coco["annotations"] and all(len(a["bbox"]) == 4 for a in coco["annotations"])


def test_predict_a_video(runs, tmp_path):
    video(tmp_path / "v.mp4")
    done = d2kd("predict", runs / "student", tmp_path / "v.mp4", "--output", tmp_path / "out")
    assert "v.mp4: 3 frames" in done.output, done.output[-500:]
    written = cv2.VideoCapture(str(tmp_path / "out" / "v.mp4"))
    assert int(written.get(cv2.CAP_PROP_FRAME_COUNT)) == 3


def test_pseudo_labels_can_be_trained_on(runs, tmp_path):
    """What the teacher finds on images becomes a data set's folder."""
    photos = tmp_path / "labelled" / "images"
    photos.mkdir(parents=True)
    for path in (runs / "cells").glob("*.*g"):
        shutil.copy(path, photos)
    done = d2kd("predict", runs / "teacher", photos, "--threshold", "0",
                "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, "--output",
                tmp_path / "out", "--coco", tmp_path / "labelled" / "train.json")  # fmt: skip
    assert done.exit_code == 0, done.output[-500:]
    done = d2kd("train", runs / "plain.yaml", "--data", tmp_path / "labelled", "--output",
                tmp_path / "run", "SOLVER.MAX_ITER", 2)  # fmt: skip
    assert done.exit_code == 0, done.output[-500:]
    assert (tmp_path / "run" / "model_final.pth").exists()


def test_data(runs, tmp_path):
    done = d2kd("data", runs / "cells", "--teacher", runs / "teacher")
    assert "images are in train and in val" in done.output and done.exit_code == 1
    (runs / "cells" / "val.json").rename(tmp_path / "val.json")
    try:
        done = d2kd("data", runs / "cells", "--teacher", runs / "teacher")
    finally:
        (tmp_path / "val.json").rename(runs / "cells" / "val.json")
    assert done.exit_code == 0 and "No problem found." in done.output, done.output
    shutil.copytree(runs / "teacher", tmp_path / "teacher")
    record = json.loads((tmp_path / "teacher" / "run.json").read_text())
    record["classes"].reverse()
    (tmp_path / "teacher" / "run.json").write_text(json.dumps(record))
    done = d2kd("data", runs / "cells", "--teacher", tmp_path / "teacher")
    assert "by name" not in done.output  # another order is none
    record["classes"][0] = "hat"
    (tmp_path / "teacher" / "run.json").write_text(json.dumps(record))
    done = d2kd("data", runs / "cells", "--teacher", tmp_path / "teacher")
    assert "1 class names that the teacher does not know: " in done.output and done.exit_code == 1


@pytest.mark.parametrize(("norms", "found"), [
    ({"loss_cls": 1.0, "loss_PKD_feat": 3.0, "loss_BCKD_cls": math.nan},
     ["loss_BCKD_cls has a NaN or infinite gradient: check weights and images."]),
    ({"loss_rpn_cls": 99.0, "loss_box_reg": 0.0, "total": 0.0, "loss_PKD_feat": 1.0}, []),
    ({"loss_rpn_cls": 1.0, "loss_PKD_feat": 99.0},
     ["loss_PKD_feat has 99% of the gradient: lower DISTILL.PKD.WEIGHT."]),
    ({"loss_rpn_cls": 1.0, "loss_PKD_feat": 0.0},
     ["loss_PKD_feat has no gradient: it teaches the student nothing."]),
])  # fmt: skip
def test_problems_of_gradients(norms, found):
    """Of a detector's own losses, which may be of no images with boxes, only the finite."""
    assert find_problems([], gradient_shares(norms), ["PKD", "BCKD"]) == found


def test_losses_that_are_not_finite_are_a_problem():
    steps = [Measured({}, {"loss_cls": math.inf, "loss_box": 1.0}, {})] * 2
    found = find_problems(steps, {}, [])
    assert found == ["loss_cls is inf in step 1: check weights and images."]


def test_class_names_of_a_config_without_a_run(runs, squares, tmp_path):
    """From its data set, if that is here."""
    cfg = get_d2kd_cfg()
    cfg.merge_from_file(str(write_config(tmp_path, squares)))
    at = str(tmp_path / "plain.yaml"), cfg, str(tmp_path / "weights.pth"), construct(cfg)
    names = class_names(*at)
    assert len(names) == 2
    assert names == json.loads((runs / "student" / "run.json").read_text())["classes"]
    cfg.DATASETS.CUSTOM, cfg.DATASETS.TRAIN = [["gone", "gone.json", "gone"]], ("gone",)
    cfg.DATASETS.TEST = ()
    assert class_names(*at) == []
    (tmp_path / "run.json").write_text(json.dumps({"d2kd": "0.1.0", "classes": ["a", "b"]}))
    assert class_names(*at) == ["a", "b"]


def test_every_command_has_help():
    for command in ("train", "eval", "predict", "check", "methods", "detectors", "data", "convert",
                    "export", "report", "convert voc", "convert yolo", "convert mmdet",
                    "convert weights"):  # fmt: skip
        done = d2kd(*command.split(), "--help")
        assert done.exit_code == 0 and "Usage: d2kd" in done.output, command
        assert "\\b" not in done.output


def test_run_as_a_module():
    from runpy import run_module

    with pytest.raises(SystemExit):
        run_module("d2kd", run_name="__main__", alter_sys=True)


def test_unlabelled_images_by_one_key(runs, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(runs / "cells", folder, ignore=shutil.ignore_patterns("*.json"))
    done = d2kd("train", runs / "plain.yaml", "--data", runs / "cells", "--teacher",
                runs / "teacher", "--unlabelled", folder, "--output", tmp_path / "run",
                "SOLVER.MAX_ITER", 3)  # fmt: skip
    assert done.exit_code == 0, done.output[-500:]
    assert str(folder) in Path(tmp_path / "run" / "config.yaml").read_text()


def test_a_detector_file_is_no_run(tmp_path):
    torch.save({"model": detector().state_dict()}, tmp_path / "x.pth")
    done = d2kd("eval", tmp_path)
    assert done.exit_code == 1 and "holds no checkpoint" in done.output
