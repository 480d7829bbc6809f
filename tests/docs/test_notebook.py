"""The notebook of one's own data runs, offline, to its last cell."""

import json
import re

from d2kd.pipeline import summary
from tests.conftest import ROOT
from tests.helpers import d2kd

NOTEBOOK = ROOT / "docs" / "tutorials" / "own_data.ipynb"
SMALL = {"IMAGES": 24, "STEPS": 2, "SIZE": 64}


def test_every_cell_runs(tmp_path, monkeypatch, quick_starts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict = {"__name__": "__main__"}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            assert set(SMALL) <= set(names)
            names.update(SMALL)
    assert {*names["result"]["AP"]} == {"teacher", "plain", "distilled"}
    assert all((tmp_path / x).is_file() for x in names["result"]["files"].values())
    assert names["shown"].size == (192, 192)
    check_again(names["plan"])


def check_again(plan):
    """The same from the command line: nothing is run again, and the result is the same."""
    asked, weights = plan.asked, plan.output / "distilled" / "model_final.pth"
    words = ["distill", asked["folder"], "--output", plan.output, "--student", asked["student"],
             "--teacher", asked["teacher"], "--steps", 2, "--size", 64]  # fmt: skip
    before = weights.read_bytes()
    again, found = d2kd(*words), d2kd(*words, "--json")
    assert again.output.count("finished before") == 5, again.output
    assert json.loads(found.output.splitlines()[-1]) == summary(plan)
    assert re.search(r"box AP of the best checkpoints: \S+", again.output), again.output
    assert weights.read_bytes() == before


def test_the_text_is_of_this_project_alone():
    text = NOTEBOOK.read_text()
    assert "image/png" in text and not [x for x in ("/tmp", "/home", "/work", "/root") if x in text]
