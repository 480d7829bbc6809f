"""Studies: plan, statistics by hand, runs that fail or are interrupted, the report's files."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from torch.testing import assert_close

from d2kd.study import (
    Run,
    collect,
    collect_more,
    load_study,
    run_study,
    summarize,
    write_report,
)

TRAINER = """
import json, sys
from pathlib import Path
options = dict(zip(sys.argv[sys.argv.index("OUTPUT_DIR"):][::2], sys.argv[sys.argv.index("OUTPUT_DIR") + 1:][::2]))
folder = Path(options["OUTPUT_DIR"]); folder.mkdir(parents=True, exist_ok=True)
seed, bonus = int(sys.argv[sys.argv.index("SEED") + 1]), float(sys.argv[sys.argv.index("BONUS") + 1])
with open(folder / "calls.txt", "a") as f: f.write(" ".join(sys.argv[1:]) + "\\n")
if bonus < 0 and "--resume" not in sys.argv:
    (folder / "last_checkpoint").write_text("model_1.pth"); sys.exit(3)
(folder / "metrics.json").write_text(json.dumps({"iteration": 1, "bbox/AP": 1.0}) + "\\n"
    + json.dumps({"iteration": 9, "bbox/AP": 10.0 * seed + bonus, "segm/AP": seed}) + "\\n")
"""  # noqa: E501


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory whose d2kd is quick to train; everything else is the real thing."""
    monkeypatch.chdir(tmp_path)
    Path("d2kd.py").write_text(TRAINER)  # found by `python -m d2kd` before the real one
    Path("plain.yaml").write_text("VERSION: 2\n")
    return tmp_path


def study(**changes):
    data = {
        "title": "Toy", "output": "out", "seeds": [1, 2, 3],
        "rows": {"plain": {"config": "plain.yaml", "options": ["BONUS", 0]},
                 "better": {"config": "plain.yaml", "options": ["BONUS", 4]}},
    }  # fmt: skip
    data.update(changes)
    Path("study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return load_study("study.yaml")


def calls(row, seed):
    path = Path("out") / row / f"seed_{seed}" / "calls.txt"
    return path.read_text().splitlines() if path.is_file() else []


def test_a_plan_is_read_once(folder, monkeypatch):
    plan = study()
    monkeypatch.delattr(Path, "read_text")  # the reader of yaml has its own, within bounds
    assert load_study("study.yaml") == plan
    assert plan.text == Path("study.yaml").read_bytes().decode()


def test_statistics_by_hand():
    summary = summarize(
        {"a": {1: 10.0, 2: 12.0, 3: 14.0}, "b": {1: 13.0, 2: 14.0, 3: 18.0}, "c": {2: 5.0}}, "a"
    )
    a, b, c = (summary[k] for k in "abc")
    assert (a["mean"], a["sd"], b["difference"]) == (12.0, 2.0, 3.0)
    assert_close(a["se"], 2 / math.sqrt(3))
    assert_close(b["difference_se"], 1 / math.sqrt(3))
    assert a["difference"] == 0 and c["difference"] == -7 and math.isnan(c["sd"])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_runs_once_and_reports(folder, jobs):
    plan = study()
    assert run_study(plan, jobs) == []
    values = collect(plan)
    assert values == {"plain": {1: 10, 2: 20, 3: 30}, "better": {1: 14, 2: 24, 3: 34}}
    text = write_report(plan, values)
    assert "| better | 14.0 | 24.0 | 34.0 | 24.0 | 10.00 | 5.77 | +4.0 | 0.00 |" in text
    assert json.loads(Path("out/report.json").read_text())["values"]["better"]["2"] == 24
    assert Path("out/report.png").read_bytes()[:4] == b"\x89PNG"
    assert run_study(plan, jobs) == [] and len(calls("plain", 1)) == 1


@pytest.mark.parametrize(
    "jobs, given, threads", [(2, "", "4"), (9, "", "1"), (2, "3", "3"), (1, "", None)]
)
def test_trainings_at_the_same_time_share_the_cores(folder, monkeypatch, jobs, given, threads):
    found = []

    def training(*args, env, **options):
        found.append(env.get("OMP_NUM_THREADS"))
        return subprocess.CompletedProcess(args, 1)

    monkeypatch.setattr("d2kd.study.trainings.usable_cores", lambda: 8)
    monkeypatch.setattr("subprocess.run", training)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    plan = study()
    run_study(plan, jobs)
    assert found == [threads] * len(plan.runs)


def test_an_interrupted_run_goes_on_and_finished_ones_are_kept(folder):
    plan = study(rows={"plain": {"config": "plain.yaml", "options": ["BONUS", 0]},
                       "fails": {"config": "plain.yaml", "options": ["BONUS", -1]}})  # fmt: skip
    errors = run_study(plan)
    assert len(errors) == 3 and "fails, seed 1: exit code 3, see" in errors[0]
    assert collect(plan)["fails"] == {} and "| fails | - | - | - |" in write_report(
        plan, collect(plan)
    )
    assert run_study(plan) == []
    assert collect(plan)["fails"] == {1: 9, 2: 19, 3: 29}
    assert "--resume" in calls("fails", 1)[1] and len(calls("plain", 1)) == 1


def test_a_changed_row_is_not_mixed_with_old_results(folder):
    run_study(study())
    changed = study(options=["SOLVER.BASE_LR", 0.1])
    with pytest.raises(ValueError, match="was made by another command.*Remove the folder"):
        run_study(changed)


def test_results_of_the_first_version_count(folder):
    """It ran train_net.py, wrote that into its results, and had its configs elsewhere."""
    Path("studies/configs/toy").mkdir(parents=True)
    Path("studies/configs/toy/plain.yaml").write_text("VERSION: 2\n")
    config = "studies/configs/toy/plain.yaml"
    plan = study(rows={"plain": {"config": config, "options": ["BONUS", 0]},
                       "better": {"config": "plain.yaml", "options": ["BONUS", 4]}})  # fmt: skip
    assert run_study(plan) == []
    for run in plan.runs:
        path = run.folder / "result.json"
        result = json.loads(path.read_text())
        old = ["train_net.py", "--config-file", *result["command"][2:]]
        result["command"] = [x.replace("studies/configs/", "configs/study/") for x in old]
        path.write_text(json.dumps(result))
    assert run_study(plan) == [] and len(calls("plain", 1)) == 1
    assert collect(plan)["better"] == {1: 14, 2: 24, 3: 34}


def test_the_command(folder):
    run = study(options=["SOLVER.BASE_LR", 0.1]).runs[1]
    assert run.row == "better" and run.seed == 1
    assert run.command == [
        "d2kd", "train", "plain.yaml", "SOLVER.BASE_LR", "0.1", "BONUS", "4",
        "SEED", "1", "OUTPUT_DIR", "out/better/seed_1",
    ]  # fmt: skip
    assert sys.executable


def test_rows_that_are_only_named_are_reported_with_their_command(folder):
    rows = {"plain": {"config": "plain.yaml", "options": ["BONUS", 0]},
            "named": {"config": "plain.yaml", "run": False,
                      "options": ["BONUS", "('a b',)"]}}  # fmt: skip
    plan = study(rows=rows)
    assert {run.row for run in plan.runs} == {"plain"} and run_study(plan) == []
    assert calls("named", 1) == []
    text = write_report(plan, collect(plan))
    assert "| named |" not in text and "| plain |" in text
    assert ("- named, seeds 1, 2, 3: `d2kd train plain.yaml BONUS "
            """"('a b',)" SEED 1 OUTPUT_DIR out/named/seed_1`""") in text  # fmt: skip
    assert "Not run" not in write_report(study(), {"plain": {1: 1, 2: 2, 3: 3},
                                                   "better": {1: 1, 2: 2, 3: 3}})  # fmt: skip


def test_what_is_not_known_is_null_in_the_json(folder):
    plain = {"config": "plain.yaml"}
    plan = study(rows={"plain": plain, "named": {**plain, "run": False}})
    write_report(plan, {"plain": {1: 2.0, 2: math.nan}, "named": {}}, {"AR": {"plain": {1: 3.0}}})
    data = json.loads(Path("out/report.json").read_text(), parse_constant=pytest.fail)
    assert data["values"] == {"plain": {"1": 2.0, "2": None}, "named": {}}
    assert data["summary"]["plain"]["seeds"] == 1 and data["summary"]["plain"]["mean"] == 2
    assert data["summary"]["named"]["mean"] is None
    assert data["more"]["AR"]["summary"]["plain"] == {
        "seeds": 1, "mean": 3.0, "sd": None, "se": None, "difference": 0.0, "difference_se": None
    }  # fmt: skip


@pytest.mark.parametrize("word", ["a", "('a',)", "a b", 'a"b', "$a", "it's", "a!b", "a\\b", ""])
def test_the_command_that_is_reported_is_what_a_shell_reads(word):
    run = Run("row", 1, Path("out"), ["d2kd", "KEY", word])
    assert shlex.split(run.shell) == ["d2kd", "KEY", word]


def test_more_metrics_are_reported_too(folder):
    plan = study(more_metrics=["segm/AP", "keypoints/AP"])
    assert collect_more(plan)["segm/AP"] == {"plain": {}, "better": {}}
    run_study(plan)
    more = collect_more(plan)
    assert more["segm/AP"]["better"] == {1: 1, 2: 2, 3: 3} and more["keypoints/AP"]["plain"] == {}
    assert "`segm/AP`; mean" in write_report(plan, collect(plan), more)


@pytest.mark.parametrize(("changes", "match"), [
    ({"robustness": {"rows": ["x"]}}, r"robustness: rows: \['x'\] are not rows"),
    ({"seed": [1]}, "key: unknown 'seed'.* 'seeds'"), ({"seeds": []}, "at least one seed"),
    ({"num_gpus": 0}, "num_gpus must be at least 1"), ({"num_gpus": True}, "True is no whole"),
    ({"num_gpus": 2, "rows": {"a": {"config": "plain.yaml"},
                              "b": {"config": "plain.yaml", "time_of": "a"}}},
     r"num_gpus 2 does not go with time_of \(b\)"),
    ({"seeds": [1, 1]}, "each once"), ({"baseline": "none"}, "baseline 'none' is not one"),
    ({"rows": {"a": {"options": []}}}, "rows: a: give config"),
    ({"rows": {"a": {"config": "plain.yaml", "options": ["X"]}}}, "pairs of KEY and VALUE"),
    ({"seeds": ["--import=x.py"]}, "seeds: .* is no list of whole numbers"),
    ({"seeds": [[1]]}, "is no list of whole numbers"), ({"rows": {"a": "x"}}, "a: give config"),
    ({"rows": {}}, "at least one"), ({"rows": ["a"]}, "is no group of keys"),
    ({"rows": {"a": {"config": ["b"]}}}, "config: .* is no text"), ({"imports": [1]}, "of texts"),
    ({"options": "A 1"}, "options: 'A 1' is no list"), ({"output": 1}, "output: 1 is no text"),
    ({"baseline": ["plain"]}, "is not one of"),
    ({"robustness": {"rows": "plain"}}, "rows: 'plain' is no list"),
    ({"output": "--import=x"}, "'--import=x/plain/seed_1' is no config, KEY, VALUE or folder"),
])  # fmt: skip
def test_mistakes_are_explained(folder, changes, match):
    with pytest.raises(ValueError, match=match):
        study(**changes)


def test_keys_without_a_value_are_not_given(folder):
    row = {"config": "plain.yaml", "options": None}
    empty = dict.fromkeys(("options", "imports", "robustness", "title", "baseline"))
    assert study(rows={"plain": row}, **empty).runs[0].command[3] == "SEED"


def test_missing_files_are_named(folder):
    with pytest.raises(FileNotFoundError, match="rows: a: config: 'gone.yaml' is neither a file"):
        study(rows={"a": {"config": "gone.yaml"}})


def test_the_studies_of_the_repository_load(monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root)
    found = [x for x in root.glob("studies/*/*.yaml") if x.parent.name != "robustness"]
    found += root.glob("studies/*.yaml")
    assert found
    for path in found:
        study = load_study(str(path))
        assert study.runs or set(study.only_named) == set(study.rows)


def test_a_study_leaves_out_what_is_not_finite():
    values = {"plain": {0: float("inf"), 1: 20.0, 2: 22.0}, "KD": {0: 5.0, 1: float("nan")}}
    found = summarize(values, "plain")
    assert found["plain"]["seeds"] == 2 and found["plain"]["mean"] == 21
    assert found["KD"]["mean"] == 5
