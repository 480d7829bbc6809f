"""The page about runs: whole ones, broken ones, and what is no run."""

import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from detectron2.structures import Boxes, Instances

from d2kd.errors import ConfigError
from d2kd.evaluation.confusion import Mistakes
from d2kd.inference.detections import detect
from d2kd.report import write_report
from d2kd.report.models import look_at_models
from d2kd.report.runs import different_keys, read_run
from tests.engine.hooks.test_exact_resume import config, train
from tests.helpers import d2kd


@pytest.fixture(scope="module")
def runs(tmp_path_factory, squares):
    folder = tmp_path_factory.mktemp("report")
    for name, case in (("plain", "RetinaNet"), ("distilled", "RetinaNet, PKD and BCKD")):
        keys = {"DISTILL__PICTURES__PERIOD": 4} if name == "distilled" else {}
        (folder / name).mkdir()
        cfg = config(case, folder / name, squares, "<run> & more", **keys,
                     DISTILL__GRADIENT_PERIOD=2)  # fmt: skip
        train(cfg)
        (folder / name / "<run> & more" / "config.yaml").write_text(cfg.dump())
    return [folder / name / "<run> & more" for name in ("plain", "distilled")]


class Page(HTMLParser):
    """Texts of table cells and captions, addresses, and tags."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.addresses, self.stack, self.unclosed = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()
        else:
            self.unclosed.append(tag)

    def handle_data(self, data):
        if self.stack and self.stack[-1] in ("td", "th", "figcaption", "pre"):
            self.cells.append(data)


def test_two_runs(runs, tmp_path):
    said = write_report(runs, tmp_path / "r.html", images=1)
    assert (
        "istillation (PKD, BCKD)" in said[0] and "Verdict</h2>" in (tmp_path / "r.html").read_text()
    )
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.stack == [] and page.unclosed == []
    assert all(x.startswith(("data:image/", "#")) for x in page.addresses)
    assert "<run>" not in text  # names are escaped
    for cell in ("plain/<run> & more", "distilled/<run> & more", "PKD, BCKD", "none", "AP50",
                 "Distillation losses", "AP by class", "Gradients at the features",
                 "Loss of the task", "torch", "MB of weights"):  # fmt: skip
        assert cell in page.cells, cell
    assert "DISTILL.PICTURES.PERIOD" in page.cells
    # ground truth and two runs; two images of two kinds that the training drew
    assert sum("data:image/jpeg" in x for x in page.addresses) == 3 + 4
    for run in runs:
        assert read_run(run, "x").command in "".join(page.cells)


def test_numbers_are_those_of_the_files(runs):
    run = read_run(runs[1], "x")
    assert run.missing == [] and run.steps == 8 and run.hours > 0
    assert set(run.metrics) >= {"loss_PKD_feat", "loss_cls", "bbox/AP", "lr"}
    assert different_keys([run, run]) == {}
    assert "OUTPUT_DIR" not in different_keys([read_run(x, "x") for x in runs])


def test_parts_that_are_missing_are_named(runs, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((runs[0] / "config.yaml").read_bytes())
    (folder / "metrics.json").write_text('{"iteration": 2, "total_loss": 1.5}\n{\n3\n')
    (folder / "results.json").write_text("[")
    done = d2kd("report", folder, "--output", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    text = re.sub(r"\s+", " ", (tmp_path / "r.html").read_text())
    for part in ("results.json is not valid json", "run.json is missing",
                 "2 of 3 lines of metrics.json cannot be read", "3 of 8 steps are done",
                 "holds no checkpoint"):  # fmt: skip
        assert part in text, part
        assert part in re.sub(r"\s+", " ", done.output), part


def test_a_detector_that_fails_on_a_later_image_does_not_end_the_report(runs, monkeypatch):
    seen = []

    def detect_or_fail(model, *args):
        seen.append(id(model))
        if seen.count(seen[0]) == 2 and id(model) == seen[0]:
            raise RuntimeError("too many boxes")
        return detect(model, *args)

    monkeypatch.setattr("d2kd.report.models.detect", detect_or_fail)
    first, second = (read_run(x, name) for x, name in zip(runs, "ab", strict=True))
    found = look_at_models([first, second], 2)
    assert first.missing == ["Speed and detections: RuntimeError: too many boxes"]
    assert "ms per image" not in first.costs and second.missing == []
    assert second.costs["ms per image"] > 0
    names = [[panel.name for panel in x.panels] for x in found]
    assert names == [["ground truth", "b"]] * 2


def test_no_run(tmp_path):
    with pytest.raises(ConfigError, match="is not the folder of a run: it has no config.yaml"):
        write_report([tmp_path], tmp_path / "r.html")


def test_the_last_evaluation_is_of_the_last_step(runs):
    assert read_run(runs[0], "x").metrics["bbox/AP"][0][-1] == 8


def test_the_first_of_several_test_sets_counts(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["DATASETS"]["TEST"] = ["a", "b"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    box = {name: {"bbox": {"AP": ap}} for name, ap in (("a", 3.0), ("b", 4.0))}
    (folder / "results.json").write_text(json.dumps({"results": box, "run": {}}))
    (folder / "metrics.json").write_text(
        '{"iteration": 7, "total_loss": 1.0, "a/bbox/AP": 3.0, "b/bbox/AP": 4.0}\n'
    )
    run = read_run(folder, "x")
    assert run.results["bbox/AP"] == 3 and run.metrics["bbox/AP"] == ([8], [3.0]) and run.done


def test_each_model_sees_images_of_its_own_size(runs, tmp_path, monkeypatch):
    other = shutil.copytree(runs[0], tmp_path / "run")
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["INPUT"] |= {"MIN_SIZE_TEST": 32, "FORMAT": "RGB"}
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    seen = {}

    def detect_and_note(model, image, *args):
        seen.setdefault(id(model), image)
        return detect(model, image, *args)

    monkeypatch.setattr("d2kd.report.models.detect", detect_and_note)
    found = look_at_models([read_run(runs[0], "a"), read_run(other, "b")], 1)
    first, second = seen.values()
    assert min(second.shape[1:]) == 32 < min(first.shape[1:])
    assert {len(x.panels) for x in found} == {3}


def test_classes_are_compared_by_name(runs, tmp_path, monkeypatch):
    other = shutil.copytree(runs[0], tmp_path / "run")
    record = json.loads((other / "run.json").read_text())
    record["classes"].reverse()
    (other / "run.json").write_text(json.dumps(record))
    boxes = Boxes(torch.tensor([[0.0, 0, 9, 9]] * 2))
    fields = {"pred_classes": torch.tensor([0, 1]), "scores": torch.ones(2)}
    monkeypatch.setattr("d2kd.report.models.detect", lambda model, image, threshold, size: (
        Instances(size, pred_boxes=boxes, **fields)))  # fmt: skip
    monkeypatch.setattr("d2kd.report.models.panels", lambda record, order, found, names: found)
    (picture,) = look_at_models([read_run(runs[0], "a"), read_run(other, "b")], 1)
    assert {k: x.pred_classes.tolist() for k, x in picture.panels.items()} == {
        "a": [0, 1], "b": [1, 0]}  # fmt: skip


def test_images_are_chosen_of_a_run_that_can_be_loaded(runs, tmp_path):
    other = shutil.copytree(runs[1], tmp_path / "run")
    for path in [*other.glob("*.pth"), other / "last_checkpoint"]:
        path.unlink(missing_ok=True)
    found = [read_run(runs[0], "plain"), read_run(other, "distilled")]
    for run in found:
        run.found = SimpleNamespace(mistakes=Mistakes(*np.ones((3, 12), int)), best={})
    assert len(look_at_models(found, 2)) == 2 and "ms per image" in found[0].costs
