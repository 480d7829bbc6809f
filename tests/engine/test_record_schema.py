"""run.json and results.json follow the documented schema, as they are written."""

import copy
import json
import re

import jsonschema
import pytest

from tests.conftest import ROOT
from tests.engine.hooks.test_exact_resume import config, train
from tests.helpers import d2kd

REFERENCE = ROOT / "docs" / "reference"
SCHEMA = json.loads((REFERENCE / "record.schema.json").read_text())
OLD = ROOT / "tests" / "engine" / "old_runs"


def check(path):
    """Against the part of the schema that is of this file."""
    name, record = path.name, json.loads(path.read_text(), parse_constant=pytest.fail)
    schema = {**SCHEMA["$defs"][name], "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(record)
    jsonschema.Draft202012Validator(SCHEMA).validate(record)
    return record


@pytest.fixture(scope="module")
def run(tmp_path_factory, squares):
    """A distilled run that was resumed with a change, and evaluated."""
    folder = tmp_path_factory.mktemp("run")
    cfg = config("RetinaNet, PKD and BCKD", folder, squares, "out", TEST__EVAL_PERIOD=4,
                 MODEL__RETINANET__SCORE_THRESH_TEST=0.0)  # fmt: skip
    train(cfg)
    cfg.SOLVER.MAX_ITER = 10
    train(cfg, resume=True)
    (folder / "mine.py").write_text("import d2kd.testing\n")
    (folder / "out" / "config.yaml").write_text(cfg.dump())
    done = d2kd("eval", folder / "out", "--import", folder / "mine.py")
    assert done.exit_code == 0, done.output
    return folder / "out"


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_distilled_run(run):
    record = check(run / "run.json")
    assert len(record["segments"]) == 2 and record["teacher_precision"] == ["fp32"]
    assert record["segments"][1]["changes"]["SOLVER.MAX_ITER"] == [8, 10]
    assert set(record["inputs"]) == set(SCHEMA["$defs"]["inputs"]["properties"])
    results = check(run / "results.json")
    assert results["run"]["iterations"] == 10 and "AP" in results["results"]["bbox"]


def test_an_evaluation(run):
    results = check(run / "eval" / "results.json")
    assert "iterations" not in results["run"] and "AP" in results["results"]["bbox"]


def test_a_plain_run(tmp_path, squares):
    cfg = config("RetinaNet", tmp_path, squares, "out", SOLVER__MAX_ITER=1)
    train(cfg)
    assert check(tmp_path / "out" / "run.json")["teacher_precision"] == []
    check(tmp_path / "out" / "results.json")


@pytest.mark.parametrize("name", ["teacher", "distilled"])
def test_runs_of_the_first_version(name):
    for file in ("run.json", "results.json"):
        check(OLD / name / file)


@pytest.mark.parametrize("change", [
    lambda x: x.update(more=1), lambda x: x.pop("torch"), lambda x: x.update(ranks="1"),
    lambda x: x["datasets"].update(a="no digest"), lambda x: x["segments"][0].update(seed=1),
    lambda x: x["segments"][1]["changes"].update(SEED=[1]), lambda x: x["inputs"].update(more=1),
])  # fmt: skip
def test_the_schema_finds_what_is_wrong(run, change):
    record = json.loads((run / "run.json").read_text())
    change(record)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(copy.deepcopy(record))


def test_the_page_has_every_field():
    text = (REFERENCE / "record.md").read_text()
    documented = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    parts = SCHEMA["$defs"]
    fields = {key for part in ("run.json", "results.json", "inputs", "segment")
              for key in parts[part]["properties"]}  # fmt: skip
    assert documented == fields | {"iterations"}
