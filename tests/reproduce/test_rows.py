"""A run of a study's report is trained again: the same bits, or what differs."""

import json
from pathlib import Path

import pytest
import yaml

from d2kd.errors import ConfigError
from d2kd.reproduce import load_row
from d2kd.study import collect, load_study, run_study, write_report
from tests.docs.pages import ROOT, pages
from tests.helpers import d2kd, write_config


@pytest.fixture(scope="module")
def report(tmp_path_factory, squares):
    """report.json of a study with one training of two steps."""
    folder = tmp_path_factory.mktemp("rows")
    keys = {"MODEL__BACKBONE__NAME": "build_retinanet_resnet_fpn_backbone",
            "MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
            "MODEL__RESNETS__OUT_FEATURES": ["res3", "res4", "res5"],
            "MODEL__FPN__IN_FEATURES": ["res3", "res4", "res5"]}  # fmt: skip
    config = write_config(folder, squares, **keys)
    options = ["SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 0]
    plan = {"output": str(folder / "out"), "seeds": [3], "options": options, "metric": "total_loss",
            "rows": {"plain": {"config": str(config)}}}  # fmt: skip
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    study = load_study(str(folder / "plan.yaml"))
    assert run_study(study, threads=1) == []
    write_report(study, collect(study))
    return folder / "out" / "report.json"


def test_the_same_bits(report, tmp_path):
    record = json.loads(report.read_text())["runs"]["plain"]["3"]
    assert len(record["config"]) == 64 and record["threads"] == 1 and record["seed"] == 3
    assert all(len(digest) == 64 for digest in record["datasets"].values())
    done = d2kd("reproduce", report, "--row", "plain", "--seed", "3", "--output", tmp_path / "x")
    assert done.exit_code == 0 and "data, weights, config, code as then" in done.output
    assert done.output.rstrip().endswith("the same bits")
    changed = json.loads(report.read_text())
    changed["runs"]["plain"]["3"] |= {"torch": "1.0", "cpu": "another"}
    changed["values"]["plain"]["3"] += 1.5
    other = tmp_path / "changed.json"
    other.write_text(json.dumps(changed))
    done = d2kd("reproduce", other, "--row", "plain", "--seed", "3", "--output", tmp_path / "x")
    assert "differs from the record: torch" in done.output and "another, this one is" in done.output
    assert "one seed says nothing of a spread" in done.output
    del changed["runs"]
    other.write_text(json.dumps(changed))
    done = d2kd("reproduce", other, "--row", "plain", "--seed", "3", "--output", tmp_path / "x")
    assert "no record: the row is older than records" in done.output


@pytest.mark.parametrize(("row", "seed", "said"), [
    ("none", 3, "no row 'none' with seed 3. Rows and seeds: plain: 3"),
    ("plain", 1, "no row 'plain' with seed 1"),
])  # fmt: skip
def test_rows_that_are_not_there(report, tmp_path, row, seed, said):
    with pytest.raises(ConfigError, match=said):
        load_row(report, row, seed, tmp_path)


def test_files_that_are_no_report(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="is no report.json of d2kd study"):
        load_row(path, "a", 1, tmp_path)


def test_rows_of_published_results_load(tmp_path, monkeypatch):
    """Studies that were tuned, that have rows of equal time, that name configs of before."""
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        values = json.loads(path.read_text())["values"]
        for row, seeds in values.items():
            for seed in list(seeds)[:1]:
                study, _ = load_row(path, row, int(seed), tmp_path / path.stem)
                assert study.rows[row][0].seed == int(seed) and not study.untimed, (path, row)
                assert Path(study.rows[row][0].command[2]).is_file()


def test_results_without_a_record_are_marked():
    files = sorted((ROOT / "docs" / "results").glob("*.json"))
    without = [x.name for x in files if "runs" not in json.loads(x.read_text())]
    page = pages()["docs/results/index.md"]
    marked = next(x for x in page.splitlines() if x.startswith("Older than the record: "))
    assert marked == "Older than the record: " + ", ".join(f"`{x}`" for x in without) + "."
