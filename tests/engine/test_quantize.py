"""Trainings with QUANTIZE.ENABLED: what they write, that they resume exactly, what they refuse."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from d2kd import DistillationTrainer
from d2kd.config.loading import load_config
from d2kd.data import register_custom_datasets
from d2kd.engine.capsule import read_capsule
from d2kd.inference.predict import build_student
from d2kd.inspection.replay.rebuild import rebuild
from d2kd.quantize import Ranges, load_quantized, quantized_convolutions, rounds
from tests.faults.broken_steps import spoilt_config, stop
from tests.helpers import d2kd, detector, write_config

ON = "QUANTIZE.ENABLED", "True"
SMALL = {"MODEL__RESNETS__OUT_FEATURES": ["p3", "p4"], "MODEL__GFL__IN_FEATURES": ["p3", "p4"],
         "MODEL__ANCHOR_GENERATOR__SIZES": [[32], [64]], "MODEL__GFL__NUM_CLASSES": 2,
         "MODEL__GFL__PRIOR_PROB": 0.5}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a quantized GFL that has 6 steps, and its data."""
    folder = tmp_path_factory.mktemp("teacher")
    weights = detector("GFL", seed=7, **SMALL).state_dict()
    torch.save({"model": weights}, folder / "tea.pth")
    return folder / "tea.pth"


def train(folder, squares, *options, **keys):
    path = write_config(folder, squares, "GFL", **SMALL, **keys)
    done = d2kd("train", path, *ON, *options)
    assert done.exit_code == 0, done.output
    return folder / "out"


def checkpoint(folder, name="model_final.pth"):
    return torch.load(folder / name, weights_only=True)


def assert_same(one, other):
    assert one.keys() == other.keys() and one
    assert all(torch.equal(x, other[name]) for name, x in one.items())


def distilled(teacher, squares, head):
    tea = write_config(teacher.parent / "config", squares, "GFL", **SMALL)
    return ["--teacher", tea, "--teacher-weights", teacher, "--distill", head]


@pytest.mark.parametrize("more", [{}, {"SOLVER__EMA__DECAY": 0.5, "QUANTIZE__START": 2}])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, squares, teacher, more):
    whole = train(tmp_path / "one", squares, *distilled(teacher, squares, "CrossKD"), **more)
    killed = tmp_path / "two" / "out"
    shutil.copytree(whole, killed)
    (killed / "model_final.pth").unlink()
    (killed / "last_checkpoint").write_text("model_0000002.pth")
    done = d2kd("train", killed, "--resume", "OUTPUT_DIR", killed)
    assert done.exit_code == 0, done.output
    one, two = checkpoint(whole), checkpoint(killed)
    assert_same(one["model"], two["model"])
    assert_same(one["quantization"], two["quantization"])
    assert_same(one["distillation"], two["distillation"]) if one["distillation"] else None
    batches = 6.0 - more.get("QUANTIZE__START", 0)
    assert {x[2].item() for x in two["quantization"].values()} == {batches, 2 * batches}  # levels


def test_an_average_is_resumed_with_its_ranges(tmp_path, squares):
    folder = train(tmp_path, squares, SOLVER__EMA__DECAY=0.5, SOLVER__MAX_ITER=1)
    cfg = load_config(str(folder), [])
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=True)
    found = Ranges(trainer.average.detector).state_dict()
    assert_same(found, checkpoint(folder)["quantization"])
    assert all(x[2] > 0 for x in found.values())


def test_the_first_step_that_rounds_is_replayed_so(tmp_path, squares):
    cfg = spoilt_config(tmp_path, squares, "label", "RetinaNet, PKD and BCKD", "")
    cfg.merge_from_list([*ON, "QUANTIZE.START", 1])
    _, path = stop(cfg, "label", 99, 1)
    capsule = read_capsule(path)
    assert rounds(rebuild(capsule).model.student)
    assert not rounds(rebuild(capsule, ["QUANTIZE.START", "2"]).model.student)


@pytest.mark.parametrize("head", ["PGD", "PKD"])
def test_a_distilled_student_is_a_plain_one_beside_its_ranges(tmp_path, squares, teacher, head):
    folder = train(tmp_path, squares, *distilled(teacher, squares, head), SOLVER__MAX_ITER=2)
    found, plain = checkpoint(folder), detector("GFL", **SMALL)
    assert found["model"].keys() == plain.state_dict().keys()
    plain.load_state_dict(found["model"])
    model = build_student(load_config(str(folder), ["MODEL.DEVICE", "cpu"]))
    load_quantized(model, str(folder / "model_final.pth"), "--weights")
    assert rounds(model) and len(quantized_convolutions(model)) == 6
    image = torch.linspace(-100, 100, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        one, other = (x.eval().backbone(image)["p3"] for x in (model, plain))
    assert 0 < (one - other).abs().max() < 0.2 * other.abs().max()


def test_the_best_model_is_evaluated_and_kept_with_its_ranges(tmp_path, squares):
    keys = {"SOLVER__BEST_METRIC": "bbox/AP", "TEST__EVAL_PERIOD": 2, "SOLVER__MAX_ITER": 4}
    folder = train(tmp_path, squares, **keys)
    best = json.loads((folder / "model_best.json").read_text())
    kept = checkpoint(folder, "model_best.pth")["quantization"]
    assert {x[2].item() for x in kept.values()} <= {2.0 * best["step"], float(best["step"])}
    file = tmp_path / "s.onnx"
    done = d2kd("export", folder, "--output", file, "--size", 64, 64, "MODEL.DEVICE", "cpu")
    assert done.exit_code == 0, done.output
    assert "INT8 as it was trained: 6 convolutions" in done.output
    assert "within 4 px and scores within 0.1" in done.output
    done = d2kd("export", folder, "--output", file, "--int8", "--overwrite", "--size", 64, 64)
    assert done.exit_code == 1 and "this run is quantized already" in done.output
    done = d2kd("eval", folder, "MODEL.DEVICE", "cpu")
    assert done.exit_code == 0 and "no ranges" not in done.output, done.output


def test_before_its_start_a_run_is_the_float_one(tmp_path, squares):
    late = train(tmp_path / "late", squares, QUANTIZE__START=5)
    path = write_config(tmp_path / "plain", squares, "GFL", **SMALL)
    assert d2kd("train", path).exit_code == 0
    early, plain = (checkpoint(x, "model_0000002.pth") for x in (late, tmp_path / "plain/out"))
    assert_same(early["model"], plain["model"])
    assert {x[2].item() for x in early["quantization"].values()} == {0}
    assert "quantization" not in plain


def test_a_quantized_teacher_is_its_float_student(tmp_path, squares, teacher, caplog):
    tea = train(tmp_path / "tea", squares, SOLVER__MAX_ITER=1)
    path = write_config(tmp_path / "stu", squares, "GFL", SOLVER__MAX_ITER=1, **SMALL)
    done = d2kd("train", path, "--teacher", tea, "--distill", "PKD")
    assert done.exit_code == 0, done.output
    log = Path(tmp_path, "stu/out/log.txt").read_text()
    assert "Teacher 0: it was trained with QUANTIZE.ENABLED, and teaches as its float" in log


@pytest.mark.parametrize(("options", "said"), [
    (["QUANTIZE.FLOAT", "('head',)"], "QUANTIZE.FLOAT is .*must be a list of trunk, pyramid"),
    (["QUANTIZE.START", "6"], "QUANTIZE.START is 6, but the run ends at SOLVER.MAX_ITER 6"),
    (["DISTILL.COMPILE", "True"], "DISTILL.COMPILE cannot be used with QUANTIZE.ENABLED"),
    (["TEST.PRECISE_BN.ENABLED", "True"], "TEST.PRECISE_BN.ENABLED cannot be used with QUANTIZE"),
    (["QUANTIZE.FLOAT", "('trunk','pyramid','heads','last convolutions')"],
     "has no convolution to quantize"),
])  # fmt: skip
def test_what_cannot_be_is_said_before_training(tmp_path, squares, options, said):
    path = write_config(tmp_path, squares, "GFL", **SMALL)
    done = d2kd("train", path, *ON, *options)
    assert done.exit_code == 1
    assert re.search(said, done.output.replace("\n", " "))
