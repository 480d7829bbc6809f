"""Evaluations of exported files beside the run in `d2kd report`."""

import json
import re

import pytest
import yaml

from d2kd.errors import ConfigError
from d2kd.report import write_report

MS = {"batch 1": {"median": 14.6, "p95": 23.7}}


def evaluated(folder, ap, data="a", **more):
    """A results.json as `d2kd eval` writes it."""
    folder.mkdir()
    run = {"datasets": {"train": "t", "test": data}, "iterations": 5}
    results = {"bbox": {"AP": ap, "AP50": 2 * ap, "AP75": ap}}
    if more:
        results["file"] = {"MB": 5.0, "threads": 1, "ms": MS}
        run = {"datasets": {"test": data}, "weights": more}
    config = {"DATASETS": {"TRAIN": ["train"], "TEST": ["test"]}}
    if not more:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.json").write_text(json.dumps({"results": results, "run": run}))
    return folder


def cells(page):
    """Of the table of files, row by row."""
    table = page.partition("<h2>Exported files</h2>")[2].partition("</table>")[0]
    rows = re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
    return [re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_one_table(tmp_path):
    run = evaluated(tmp_path / "run", 21.76)
    file = evaluated(tmp_path / "int8", 21.25, **{"output/student.int8.onnx": "hash"})
    other = evaluated(tmp_path / "other", 30.0, "t", **{"x.xml": "hash"})  # the training images
    said = write_report([file, run, other], tmp_path / "page.html", images=0)
    assert cells((tmp_path / "page.html").read_text()) == [
        ["", "run", "int8", "other"],
        ["file", "PyTorch", "student.int8.onnx", "x.xml"],
        ["AP", "21.76", "21.25", "30.00"],
        ["AP50", "43.52", "42.50", "60.00"],
        ["AP75", "21.76", "21.25", "30.00"],
        ["MB", "-", "5.0", "5.0"],
        ["ms per image, batch 1", "-", "14.6", "14.6"],
        ["95 %, batch 1", "-", "23.7", "23.7"],
    ]
    assert [x for x in said if "AP cannot be compared" in x] == [
        "warning: other was evaluated on other data than run: AP cannot be compared."
    ]


def test_files_alone_are_refused(tmp_path):
    file = evaluated(tmp_path / "int8", 21.25, **{"x.onnx": "hash"})
    with pytest.raises(ConfigError, match="give a run.s folder too"):
        write_report([file], tmp_path / "page.html")


def test_a_run_alone_has_no_such_table(tmp_path):
    write_report([evaluated(tmp_path / "run", 1.0)], tmp_path / "page.html", images=0)
    assert "Exported files" not in (tmp_path / "page.html").read_text()
