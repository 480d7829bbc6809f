"""What the page makes of detections: charts, doubts, and the images that it shows."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from d2kd.config.loading import load_config
from d2kd.data import register_custom_datasets
from d2kd.evaluation.best_f1 import best_f1
from d2kd.evaluation.panels import panel
from d2kd.file_io import sha256_of
from d2kd.report import write_report
from d2kd.report.charts import ap_charts
from d2kd.report.doubts import doubts, teachers_of
from d2kd.report.drawing import line_chart
from d2kd.report.intervals import found_by, own_intervals
from d2kd.report.models import choose_images
from d2kd.report.runs import RunFolder, read_run
from tests.report.test_page import Page
from tests.report.test_verdict import one_seed  # noqa: F401


@pytest.fixture
def runs(one_seed):  # noqa: F811
    found = [read_run(x, x.name) for x in one_seed]
    assert all(map(found_by, found))
    return found


def test_the_images_with_most_and_least_mistakes(runs, squares):
    plain, kd = runs
    objects = Counter(x["image_id"] for x in json.loads((squares / "squares.json").read_text())
                      ["annotations"])  # fmt: skip
    assert sum(plain.found.mistakes.missed) == sum(objects.values()) // 2 + 1
    assert kd.found.mistakes.missed.tolist() == [1, *[0] * 11]  # of 99 objects, every 99th
    name, titles = choose_images(runs, 3)
    assert name == "kd" and next(iter(titles)) == 0
    assert [x.split(" in ")[0] for x in titles.values()] == ["Worst 1", "Worst 2", "Best 1"]
    assert list(titles)[2] == max(range(1, 12), key=lambda i: (objects[i], -i))
    assert [len(choose_images(runs, n)[1]) for n in (0, 1, 99)] == [0, 1, 12]
    assert list(choose_images([RunFolder("a", Path())], 2)[1]) == [0, 1]


def test_threshold_and_intervals_are_those_of_the_detections(runs):
    for run in runs:
        assert run.found.best == best_f1(run.found.truth, run.found.detections)
        ends = own_intervals(run.found)
        for key in ("bbox/AP", "bbox/AP-red", "bbox/AP-green"):
            low, high = ends[key]
            assert low <= run.results[key] <= high, key
        assert ends["bbox/APs"][0] > 0 and math.isnan(ends["bbox/APl"][0])  # none is large


def test_doubts(runs):
    plain, kd = runs
    assert doubts(runs, []) == [
        "Test images of plain: 12 images: on fewer than 50, AP moves by several points by chance. "
        "Hold more images back.",
        "Test images of plain: 1 class(es) with fewer than 10 objects, whose AP says little: red.",
    ]
    plain.found.classes.reverse()
    for x in plain.found.truth["annotations"]:
        x["category_id"] = 1 - x["category_id"]
    assert "other images" not in "".join(doubts(runs, []))  # another order of classes
    plain.found.classes.reverse()
    for x in plain.found.truth["annotations"]:
        x["category_id"] = 0
    del plain.found.__dict__["judged"]
    text = "Test images of plain: 1 class(es) without an object, which AP leaves out: green."
    assert text in doubts([plain], [])
    assert "kd was evaluated on other images than plain: their numbers" in doubts(runs, [])[-3]
    kd.results["distill/teacher_advantage"] = -2.0
    assert "kd: its teacher has 2.0 AP less than it, on the same images." in doubts([kd], [])
    plain.results["bbox/AP"] = 4.9
    assert doubts([plain], [])[0].startswith("No run reaches 5 AP")
    assert "No run reaches" not in doubts(runs, [])[0]


def test_a_teacher_is_known_by_its_weights_and_compared(runs):
    plain, kd = runs
    teacher = RunFolder("t", plain.folder.parent / "teacher", results={"bbox/AP": 1.0},
                        config=plain.config)  # fmt: skip
    teacher.folder.mkdir()
    (teacher.folder / "model_final.pth").write_bytes(b"weights")
    assert teachers_of([teacher, plain, kd]) == []
    sha = sha256_of(teacher.folder / "model_final.pth")
    kd.record["weights"] = {"elsewhere/model_final.pth": sha}
    assert teachers_of([teacher, plain, kd]) == ["t"]
    (text,) = [x for x in doubts([teacher, plain], ["t"]) if "teacher" in x]
    assert text.startswith("The teacher t (AP 1.0) is no better than the plain student plain (AP ")


def test_the_page(runs, tmp_path):
    write_report([x.folder for x in runs], tmp_path / "r.html", images=0)
    page = Page((tmp_path / "r.html").read_text())
    assert page.stack == [] and page.unclosed == []
    for text in ("Precision over recall at IoU 0.5 and, dashed, 0.75", "best F1",
                 "F1 over the score threshold, at IoU 0.5", "kd, score 0.25 or more"):  # fmt: skip
        assert text in page.cells, text


def test_a_panel_says_what_is_right():
    boxes = torch.tensor([[5.0, 5, 25, 25], [40, 40, 60, 60]])
    truth = Instances((64, 64), pred_boxes=Boxes(boxes), pred_classes=torch.tensor([0, 1]))
    found = Instances((64, 64), pred_boxes=Boxes(boxes[[1, 0, 0]]))
    found.scores, found.pred_classes = torch.tensor([0.3, 0.9, 0.8]), torch.tensor([0, 0, 7])
    image = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
    drawn = panel("$a_", image, truth, found, ["_a$", "b"])
    assert drawn.counts == "1 found, 1 missed, 2 wrong" and drawn.image.width == 480
    colors = {pixel for _, pixel in drawn.image.getcolors(1 << 20)}
    assert {(86, 180, 233), (213, 94, 0)} <= colors  # found, wrong
    found.pred_masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    found.pred_masks[1, 10:20, 10:20] = True  # of the hit
    masked = panel("a", image, truth, found, ["a", "b"]).image
    inside = masked.getpixel((110, 110))
    assert drawn.image.getpixel((110, 110)) == (0, 0, 0) and inside[2] > inside[0] > 0


def test_where_training_starts_is_no_teacher(runs):
    plain, kd = runs
    (plain.folder / "model_final.pth").write_bytes(b"weights")
    kd.record["weights"] = {"start.pth": sha256_of(plain.folder / "model_final.pth")}
    kd.config["MODEL.WEIGHTS"] = "start.pth"
    assert teachers_of([plain, kd]) == []
    kd.config["DISTILL.TEACHER.WEIGHTS"] = ["start.pth"]
    assert teachers_of([plain, kd]) == ["plain"]


def test_two_sets_of_one_name(one_seed, squares, tmp_path):  # noqa: F811
    plain, kd = one_seed
    other = shutil.copytree(squares, tmp_path / "other")
    text = (kd / "config.yaml").read_text()
    (kd / "config.yaml").write_text(text.replace(str(squares), str(other)))
    DatasetCatalog.remove("verdict_squares")
    assert all(found_by(read_run(x, x.name)) for x in (plain, kd))
    assert "verdict_squares" not in DatasetCatalog
    register_custom_datasets(load_config(str(plain), []))  # the fixture removes it


def test_charts_of_many_classes_and_values():
    box = {f"bbox/AP-{k}": float(k) for k in range(25)}
    ((title, svg),) = ap_charts([RunFolder("a", Path(), results=box)])
    assert title == "AP by class: the 20 of 25 that differ most" and svg.startswith("<svg")
    line = {"a": (list(range(1, 100)), [1.0, 2.0, 3.0] * 33)}
    assert "opacity: 0.25" in line_chart(line, "loss", log=True)
    assert "opacity: 0.25" not in line_chart(line, "learning rate")
