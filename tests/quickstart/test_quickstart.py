"""The quick start, whole, with a few steps on a few images."""

import dataclasses
import functools
import json
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from safetensors.torch import load_file

from d2kd.engine.pace import Pace
from d2kd.quickstart import pace, stages, teacher, training
from d2kd.quickstart.digits import DigitsSpec
from d2kd.quickstart.markdown import write_report
from d2kd.quickstart.pace import LIMITS, MAX_RATIO, Mode, measure_pace
from d2kd.quickstart.stages import run
from d2kd.quickstart.teacher import TEACHER, rebuild_teacher, save_teacher
from d2kd.quickstart.training import load_config

STEPS = 4
STAGES = ("student", "distilled", "student_time_matched")


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Results, output folder, and each student's weights and images at the start of training."""
    folder, starts = tmp_path_factory.mktemp("quickstart"), []
    stock = training.QuickstartTrainer.train

    def small(*args):
        cfg = load_config(*args)
        cfg.SOLVER.IMS_PER_BATCH = 4
        return cfg

    def train(self):
        model = self.distiller.student if self.distiller else self.model
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        starts.append(
            (weights, [record["image_id"] for record in next(self._trainer._data_loader_iter)])
        )
        stock(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        patch.setattr(training.QuickstartTrainer, "train", train)
        for module in (stages, pace, teacher):
            patch.setattr(module, "load_config", small)
        patch.setattr(stages, "measure_pace", functools.partial(measure_pace, turns=2))
        for name in ("digits_train", "digits_test"):
            DatasetCatalog.pop(name, None), MetadataCatalog.pop(name, None)
        results = run(folder / "out", STEPS, spec=DigitsSpec(num_train=20, num_test=4))
        yield results, folder / "out", dict(zip(STAGES, starts, strict=True))
        for name in ("digits_train", "digits_test"):
            DatasetCatalog.pop(name), MetadataCatalog.pop(name)


def test_report_has_the_four_rows_and_pictures(quickstart):
    results, folder, _ = quickstart
    report = (folder / "report.md").read_text()
    rows = [line.split("|")[1].strip() for line in report.splitlines() if line.startswith("| ")]
    assert rows == ["model", "teacher", "student", "student (time-matched)", "distilled"]
    assert "one seed" in report and "Seed: 1" in report and torch.__version__ in report
    for name in ("curve.png", "detections.png"):
        assert f"({name})" in report
        assert min(Image.open(folder / name).size) > 300
    assert [r.steps for r in results[1::2]] == [STEPS, STEPS]
    assert all(r.ms > 0 and r.seconds > 0 for r in results)


def test_the_shipped_teacher_knows_unseen_digits(quickstart):
    teacher = quickstart[0][0]
    assert teacher.box["AP"] > 60 and teacher.steps == 2000
    assert TEACHER.stat().st_size < 10e6


def test_students_start_from_the_same_weights_and_images(quickstart):
    _, _, starts = quickstart
    weights, images = starts["student"]
    for name in STAGES[1:]:
        assert starts[name][1] == images
        assert set(starts[name][0]) == set(weights)
        assert all(torch.equal(starts[name][0][key], weights[key]) for key in weights)


def test_only_the_distilled_run_has_distillation_losses(quickstart):
    _, folder, _ = quickstart
    for stage in STAGES:
        rows = [json.loads(x) for x in (folder / stage / "metrics.json").read_text().splitlines()]
        keys = set().union(*rows)
        assert ("loss_BCKD_cls" in keys) == (stage == "distilled") and "bbox/AP" in keys
        assert "Start inference" in (folder / stage / "log.txt").read_text()


def test_time_matched_steps(quickstart):
    (_, _, matched, _), folder, _ = quickstart
    assert STEPS <= matched.steps <= MAX_RATIO * STEPS
    saved = torch.load(folder / "student_time_matched" / "model_final.pth", weights_only=True)
    assert saved["iteration"] == matched.steps - 1
    ratio = re.search(r"takes the time\s+of\s+(\S+)\s+plain", (folder / "report.md").read_text())[1]
    if float(ratio) < MAX_RATIO:
        assert matched.steps == pytest.approx(float(ratio) * STEPS, abs=0.6)


def test_the_clock_leaves_evaluation_out(quickstart):
    """Seconds of the curve grow only with the steps, and the last point is the result."""
    for result in quickstart[0][1:]:
        steps, seconds, ap = zip(*result.curve, strict=True)
        assert steps[-1] == result.steps and list(steps) == sorted(set(steps))
        assert seconds[-1] == result.seconds and ap[-1] == result.box["AP"]


def test_a_time_that_does_not_match_is_reported(quickstart, tmp_path):
    teacher, student, matched, distilled = quickstart[0]
    limited = "limited to 1 to 2.5: **the times do not match**"
    for share, ratio, said in ((0.8, 1.9, "other jobs"), (0.95, 1.9, ""), (1.2, 1.9, "other jobs"),
                               (0.6, 4.0, limited)):  # fmt: skip
        matched = dataclasses.replace(matched, seconds=share * distilled.seconds)
        results = [teacher, student, matched, distilled]
        pace = Pace(0.2, ratio, limits=LIMITS)
        write_report(tmp_path / "r.md", results, pace, Mode(1, 2), 1, 0.5)
        report = " ".join((tmp_path / "r.md").read_text().split())
        assert f"time of {ratio:.2f} plain ones" in report and "12 turns of each" in report
        assert said in report
        assert ("AP at the same training time" in report) == (said != limited)
        assert ("at the same training time it is not known" in report) == (said == limited)
        assert "one batch ahead of the student with 2 threads for each of the two" in report
        assert ("other jobs slowed" in report) == (said == "other jobs")


def test_rebuilding_the_teacher(quickstart, tmp_path):
    path = tmp_path / "teacher.safetensors"
    rebuild_teacher(tmp_path / "run", path, steps=1)
    trained = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    shipped = load_file(path)
    assert set(shipped) == set(trained) == set(load_file(TEACHER))
    for key, value in trained.items():
        if value.is_floating_point():
            assert shipped[key].dtype == torch.float16
        torch.testing.assert_close(shipped[key].to(value.dtype), value, atol=1e-4, rtol=1e-3)


def test_a_teacher_too_wide_for_half_precision_is_refused(tmp_path):
    torch.save({"model": {"a": torch.tensor([1.0]), "b": torch.tensor([1e5])}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="b are not finite in half precision"):
        save_teacher(tmp_path / "x.pth", tmp_path / "x.safetensors", 1, 1.0)


def test_elsewhere_it_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="run it in the repository's root folder"):
        load_config("student", tmp_path)
