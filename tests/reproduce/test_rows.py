"""A run of a study's report is trained again: the same bits, or what differs."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from d2kd.cores import cpu_kind
from d2kd.errors import ConfigError
from d2kd.evaluation.spread import spread_of
from d2kd.reproduce import BEYOND, Report, plan_of_row
from d2kd.reproduce.rows import _explained
from d2kd.study import collect, load_study, run_study, write_report
from d2kd.study.records import compare_records
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


def again(path, out, seed=3):
    return d2kd("reproduce", path, "--row", "plain", "--seed", seed, "--output", out)


def test_the_same_bits(report, tmp_path):
    data = json.loads(report.read_text())
    record = data["runs"]["plain"]["3"]
    assert len(record["config"]) == 64 and record["threads"] == 1 and record["seed"] == 3
    assert all(len(digest) == 64 for digest in record["datasets"].values())
    found = again(report, tmp_path / "x")
    assert found.exit_code == 0 and found.output.rstrip().endswith("the same bits")
    said = "all that is recorded is as then", "differs from the record: code (unknown"
    assert any(x in found.output for x in said)  # by whether this work tree has changes
    found = again(report, tmp_path / "x")
    assert found.exit_code and "is this run, trained before: remove it" in str(found.exception)


def with_plan(report, path, rows, **changes):
    data = json.loads(report.read_text())
    plan = yaml.safe_load(data["study"])
    config = plan["rows"]["plain"]["config"]
    plan["rows"] = {name: {"config": config, **row} for name, row in rows.items()}
    plan |= changes.pop("plan", {})
    data |= {"study": yaml.safe_dump(plan), **changes}
    path.write_text(json.dumps(data))
    return Report(path)


def test_rows_with_a_teacher_tuned_options_and_equal_time(report, tmp_path):
    """The teacher is the one that the study's students had, that of its first seed."""
    tried = {"config": "x", "try": [["SOLVER.BASE_LR", 1]]}
    rows = {"t": {"tuned": "a"}, "kd": {"teacher": "t", "tuned": "a"}, "long": {"time_of": "kd"}}
    plan = {"seeds": [1, 3], "tune": {"test": "x", "steps": 1, "rows": {"a": tried}}}
    tried["config"] = yaml.safe_load(json.loads(report.read_text())["study"])["rows"]["plain"][
        "config"
    ]
    tuned = {"rows": {"a": {"options": ["SOLVER.BASE_LR", 0.5]}}}
    runs = {"t": {"1": {"device": "x86_64"}}, "kd": {"3": {"device": "NVIDIA H200"}}}
    more = {"values": {"kd": {"3": 1.0}, "long": {"3": 2.0}}, "runs": runs,
            "equal_time": {"long": {"steps": 7}}}  # fmt: skip
    found = with_plan(report, tmp_path / "r.json", rows, plan=plan, tuned=tuned, **more)
    study = plan_of_row(found, tmp_path / "r.json", "kd", 3, tmp_path / "out")
    assert {row: [x.seed for x in runs] for row, runs in study.rows.items()} == {
        "t": [1],
        "kd": [3],
    }
    assert "SOLVER.BASE_LR 0.5" in study.rows["kd"][0].shell
    assert "SOLVER.BASE_LR 0.5 MODEL.DEVICE cpu" in study.rows["t"][0].shell
    assert "MODEL.DEVICE" not in study.rows["kd"][0].shell
    assert str(study.rows["t"][0].folder) in study.rows["kd"][0].command
    long = plan_of_row(found, tmp_path / "r.json", "long", 3, tmp_path / "out")
    assert "SOLVER.MAX_ITER 7" in long.runs[0].shell and len(long.runs) == 1
    without = with_plan(report, tmp_path / "s.json", rows, plan=plan, **more)
    with pytest.raises(ConfigError, match="or not whole"):
        plan_of_row(without, tmp_path / "s.json", "kd", 3, tmp_path / "out")


def test_a_report_runs_no_code(report, tmp_path):
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')")
    path = tmp_path / "r.json"
    with_plan(report, path, {"plain": {}}, plan={"imports": [str(tmp_path / "mine.py")]})
    found = again(path, tmp_path / "out")
    assert "which is code. If you know it, allow it: d2kd reproduce" in str(found.exception)
    assert not (tmp_path / "RAN").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [
    "{}", "[]", "3", '{"study": 5, "values": {}}', '{"study": "a: b", "values": {}}',
    '{"study": "[", "values": {}}', '{"study": "rows: [a]", "values": {}}',
    '{"study": "output: x\nseeds: [1]\nrows: {a: 3}", "values": {}}',
    '{"study": "output: x\nseeds: [1]\nrows: {a: {}}", "values": {}}',
    '{"study": "", "values": []}', '{"study": "", "values": {"a": 3}}',
    '{"study": "!!python/object/apply:os.system [x]", "values": {}}',
])  # fmt: skip
def test_files_that_are_no_report(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="x.json"):
        Report(path)


@pytest.mark.parametrize("part", [{"runs": 3}, {"runs": {"plain": 3}}, {"equal_time": []}])
def test_parts_that_are_none(report, tmp_path, part):
    found = with_plan(report, tmp_path / "x.json", {"plain": {"time_of": "b"}, "b": {}}, **part)
    with pytest.raises(ConfigError, match="or not whole"):
        plan_of_row(found, tmp_path / "x.json", "plain", 3, tmp_path / "out")


@pytest.mark.parametrize(("row", "seed", "said"), [
    ("none", 3, "no row 'none' with seed 3. Rows and seeds: plain: 3"),
    ("plain", 1, "no row 'plain' with seed 1"),
])  # fmt: skip
def test_rows_that_are_not_there(report, tmp_path, row, seed, said):
    with pytest.raises(ConfigError, match=said):
        plan_of_row(Report(report), report, row, seed, tmp_path)


def test_names_that_are_numbers(report, tmp_path):
    found = with_plan(report, tmp_path / "x.json", {7: {}}, values={"7": {"3": 1.0}})
    assert list(plan_of_row(found, tmp_path / "x.json", "7", 3, tmp_path).rows) == ["7"]


def test_rows_of_published_results(tmp_path, monkeypatch):
    """Studies that were tuned, that have rows of equal time, that name configs of before."""
    monkeypatch.chdir(ROOT)
    count = 0
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        found = Report(path)
        for row, seeds in found.values.items():
            for seed in list(seeds)[:1]:
                study = plan_of_row(found, path, row, int(seed), tmp_path / path.stem)
                assert study.rows[row][0].seed == int(seed) and not study.untimed, (path, row)
                assert Path(study.rows[row][0].command[2]).is_file()
                count += 1
    assert count > 80


def test_what_counts_as_a_difference():
    one = {"torch": "1", "device": "cpu", "threads": 1, "config": "a", "commit": "c",
           "datasets": {"x": "1"}, "weights": {"here": "2"}}  # fmt: skip
    assert compare_records(one, {**one, "weights": {"there": "2"}}) == []
    other = {**one, "torch": "2", "threads": 2, "weights": {"here": "3"}, "commit": "d"}
    assert compare_records(one, other) == ["torch", "threads", "weights", "commit"]
    for commit in ("", "c+changes"):
        found = compare_records({**one, "commit": commit}, {**one, "commit": commit})
        assert found == ["code (unknown: no commit, or changes to it)"]


def test_the_kind_of_cpu(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_bytes(b"processor\t: 0\nmodel name\t: AMD \xff EPYC\nmodel name\t: second\n")
    assert cpu_kind(info).startswith("second, ")
    info.write_text("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    assert cpu_kind(info).startswith("0x41 0xd0c, ")
    assert cpu_kind(tmp_path / "none").count(",") == 1


def test_results_without_a_record_are_marked():
    files = sorted((ROOT / "docs" / "results").glob("*.json"))
    without = [x.name for x in files if "runs" not in json.loads(x.read_text())]
    page = pages()["docs/results/index.md"]
    marked = next(x for x in page.splitlines() if x.startswith("Older than the record: "))
    assert marked == "Older than the record: " + ", ".join(f"`{x}`" for x in without) + "."


def test_what_the_seeds_of_a_row_explain():
    """By Student's t with two degrees of freedom, 4.303, and the root of two."""
    seeds = spread_of([50.0, 51.0, 52.0])
    assert _explained(-6.08, seeds).startswith(": within 6.08, which 95 of 100 ")
    assert _explained(6.1, seeds).startswith(f": {BEYOND} 6.08, ")
    assert "its 3 seeds have a deviation of 1.00" in _explained(0.1, seeds)
    assert _explained(0.1, spread_of([50.0])) == "; one seed says nothing of a spread"


def test_so_few_runs_are_beyond_as_it_says():
    runs = np.random.default_rng(0).normal(size=(4000, 4))
    beyond = [BEYOND in _explained(new - row[0], spread_of(row)) for *row, new in runs]
    assert 0.02 < np.mean(beyond) < 0.06
