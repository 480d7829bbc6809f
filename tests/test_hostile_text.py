"""Names from data that try to be formulas, markup, paths, or commands of a terminal."""

import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from detectron2.structures import Boxes, Instances
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import tensor

from d2kd.inference.detections import draw_detections
from d2kd.robustness.plan import build_plan
from d2kd.robustness.results import result_path
from d2kd.study import load_study
from d2kd.study.markdown import write_report
from d2kd.text import file_name, for_markdown, make_output_plain, markdown_code, plain, plain_lines
from tests.conftest import ROOT

HOSTILE = ["$x$", "$", r"\frac{", "../../x", "/etc/passwd", "..", "", ".", "a|b", "<img src=x>",
           "\x1b]0;x\x07\x1b[31m", "a\nb\r", "\ud800", "\u202ecba", "_x", "a" * 500, "日本語" * 60,
           "`rm`", "**b**", "[a](b)", "con\x00", "%s %d {0}"]  # fmt: skip
texts = st.text(st.characters(exclude_categories=()), max_size=30) | st.sampled_from(HOSTILE)
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@given(texts, texts)
@example("a/b", "a_b")
def test_names_of_files_are_one_component_and_tell_texts_apart(one, other):
    for name in map(file_name, (one, other)):
        assert name not in ("", ".", "..") and not set(name) & set("/\\\x00\n")
        assert len(os.fsencode(name)) <= 200 and not UNSEEN.search(name)
    assert (file_name(one) == file_name(other)) == (one == other)


@given(texts)
def test_markdown_shows_the_text(text):
    cell, code = for_markdown(text), markdown_code(text)
    assert not UNSEEN.search(cell + code + plain(text) + plain_lines(text).replace("\n", ""))\
        or "\t" in text  # fmt: skip
    assert not re.search(r"(?<!\\)(\\\\)*[|`<]", cell)
    ticks = re.match("`+", code)[0]
    assert re.findall("`+", code).count(ticks) == 2


def test_logs_and_streams_take_anything(tmp_path, capsys):
    before = logging.getLogRecordFactory()
    try:
        make_output_plain()
        handler = logging.FileHandler(tmp_path / "log.txt")
        logger = logging.getLogger("hostile")
        logger.addHandler(handler)
        logger.warning("%s\n%s", *HOSTILE[10:12])
        logger.warning("".join(HOSTILE).replace("%", "%%"))
        handler.close()
        logger.removeHandler(handler)
    finally:
        logging.setLogRecordFactory(before)
    assert not UNSEEN.search((tmp_path / "log.txt").read_text().replace("\n", ""))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_in_few_characters(encoding, tmp_path):
    """Another encoding of the terminal shows what it lacks as an escape."""
    code = ("from d2kd.text import make_output_plain; make_output_plain(); "
            "print('日本 \\ud800'); import logging; logging.warning('日本')")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"\u65e5\u672c \ud800" in done.stdout and b"Error" not in done.stderr


@settings(max_examples=10, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
@example(HOSTILE)
def test_detections_are_drawn_with_any_class_names(names):
    count = len(names) + 1  # one class more than there are names
    found = Instances((40, 60))
    found.pred_boxes = Boxes(tensor([[5.0, 5, 30, 30]] * count))
    found.pred_classes, found.scores = tensor(range(count)), tensor([0.9] * count)
    image = np.zeros((40, 60, 3), np.uint8)
    draw_detections(image, {names[0]: found}, names).canvas.draw()


def test_rows_of_a_study_stay_in_its_folder(tmp_path):
    import yaml

    (tmp_path / "c.yaml").write_text("")
    rows = {name: {"config": str(tmp_path / "c.yaml")} for name in HOSTILE if name != "\ud800"}
    plan = {"title": HOSTILE[9], "output": str(tmp_path / "out"), "seeds": [1], "rows": rows}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(plan))
    study = load_study(str(tmp_path / "s.yaml"))
    folders = [run.folder for run in study.runs]
    assert len(set(folders)) == len(rows)
    for folder in folders:
        assert (tmp_path / "out").resolve() in folder.resolve().parents
        folder.mkdir(parents=True)
    values = {name: {1: 40.0} for name in rows}
    shown = write_report(study, values)
    table = [x for x in shown.splitlines() if x.startswith("| ")]
    assert len(table) == len(rows) + 1
    assert {len(re.findall(r"(?<!\\)\|", x)) for x in table} == {8}
    assert "<img" not in shown and not UNSEEN.search(shown.replace("\n", ""))


def test_results_of_models_stay_in_the_folder_of_a_plan(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    models = {name: {"config": str(tmp_path / "c.yaml")} for name in HOSTILE}
    shift = {name: {"dataset": "x"} for name in HOSTILE}
    plan = build_plan({"output": str(tmp_path / "out"), "models": models, "shift": shift}, "p")
    paths = {result_path(plan, model, cell) for model in models for cell in plan.cells}
    assert len(paths) == len(models) * len(plan.cells)
    assert all(x.parent.parent == tmp_path / "out" for x in paths)
