"""Tuning, steps of the same time and teachers of a study, with a d2kd that is quick to train."""

import json
import math
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from d2kd.cli import main
from d2kd.engine.pace import Pace
from d2kd.study import load_study, tune_study

TRAINER = """
import json, sys
from pathlib import Path
words = sys.argv[1:]
first = next(i for i, word in enumerate(words) if word.isupper() and "," not in word)
options = dict(zip(words[first::2], words[first + 1::2]))
folder = Path(options["OUTPUT_DIR"]); folder.mkdir(parents=True, exist_ok=True)
with open("calls.txt", "a") as f: f.write(" ".join(words) + "\\n")
if "--teacher" in words and not Path(words[words.index("--teacher") + 1], "metrics.json").is_file():
    sys.exit(4)
rate = float(options.get("SOLVER.BASE_LR", 0.1))
value = 50 - 100 * abs(rate - 0.2) + (5 if options.get("SOLVER.MOMENTUM") == "0.5" else 0)
(folder / "metrics.json").write_text(json.dumps({"bbox/AP": value + int(options["SEED"])}) + "\\n")
"""
PLAIN = {"config": "plain.yaml"}
TUNE = {
    "test": "toy_val", "steps": 60,
    "rows": {
        "plain": {**PLAIN, "try": [["SOLVER.BASE_LR", 0.2], ["SOLVER.BASE_LR", 0.4]]},
        "distilled": {**PLAIN, "teacher": "big", "tuned": "plain",
                      "try": [[], ["SOLVER.MOMENTUM", 0.5]]},
    },
}  # fmt: skip
ROWS = {
    "big": {**PLAIN, "seeds": [1]},
    "plain": {**PLAIN, "tuned": "plain"},
    "distilled": {**PLAIN, "tuned": "distilled", "teacher": "big", "methods": ["PKD", "BCKD"]},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d2kd.py").write_text(TRAINER)  # found by `python -m d2kd` before the real one
    text = "VERSION: 2\nDATASETS: {TRAIN: [toy_train], TEST: [toy_test]}\n"
    Path("plain.yaml").write_text(text)
    return tmp_path


def write(tune=TUNE, rows=ROWS, **changes):
    data = {"title": "Toy", "output": "out", "seeds": [1, 2], "rows": rows, "tune": tune, **changes}
    data = {key: value for key, value in data.items() if value}
    Path("plan.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return load_study("plan.yaml")


def d2kd(*words):
    return CliRunner().invoke(main, ["study", "plan.yaml", *words])


def calls():
    return Path("calls.txt").read_text().splitlines() if Path("calls.txt").is_file() else []


def test_rows_take_what_tuning_chose(folder):
    write()
    refused = d2kd()
    assert refused.exit_code == 1 and not calls()
    assert "seeds 1, 2 (after d2kd study plan.yaml --tune): `d2kd train" in d2kd("--report").output
    assert "out/tuned.yaml lacks what rows ['plain', 'distilled'] take" in refused.output
    assert "run d2kd study plan.yaml --tune first" in refused.output

    result = d2kd("--tune")
    assert result.exit_code == 0, result.output
    assert len(calls()) == 5 and "OUTPUT_DIR out/big/seed_1" in calls()[0]
    assert calls()[1] == (
        "train plain.yaml SOLVER.BASE_LR 0.2 SOLVER.MAX_ITER 60 DATASETS.TEST ('toy_val',) "
        "SEED 0 OUTPUT_DIR out/tune/plain/1/seed_0"
    )
    assert "--teacher out/big/seed_1 SOLVER.BASE_LR 0.2 SOLVER.MOMENTUM 0.5" in calls()[4]
    assert "| distilled | SOLVER.MOMENTUM 0.5 | **55.0** |" in result.output
    found = yaml.safe_load(Path("out/tuned.yaml").read_text())
    assert [(x["options"], x["best"]) for x in found["rows"].values()] == [
        (["SOLVER.BASE_LR", 0.2], 1), (["SOLVER.BASE_LR", 0.2, "SOLVER.MOMENTUM", 0.5], 2)
    ]  # fmt: skip
    assert found["tune"]["test"] == "toy_val" and found["tune"]["steps"] == 60
    assert found["rows"]["plain"]["tried"][1]["bbox/AP"] == pytest.approx(30)

    result = d2kd()
    assert result.exit_code == 0, result.output
    assert (
        "train plain.yaml --teacher out/big/seed_1 --distill PKD,BCKD SOLVER.BASE_LR" in calls()[-1]
    )
    assert "| big | 41.0 | - | 41.0 |" in result.output and "as many tries each" in result.output
    assert len(calls()) == 9 and d2kd("--tune").exit_code == 0 and len(calls()) == 9


def test_another_study_takes_a_committed_record(folder):
    write(tuned="kept.yaml")
    assert d2kd("--tune").exit_code == 0 and Path("kept.yaml").is_file()
    write(tune=None, rows={"plain": ROWS["plain"]}, output="other", tuned="kept.yaml")
    result = d2kd()
    assert result.exit_code == 0, result.output
    assert "SOLVER.BASE_LR 0.2 SEED 2 OUTPUT_DIR other/plain/seed_2" in calls()[-1]
    assert "| plain | SOLVER.BASE_LR 0.4 | 30.0 |" in result.output


def test_a_changed_tune_is_not_reported_as_the_old_one(folder):
    write()
    d2kd("--tune")
    write({**TUNE, "steps": 90})
    assert "was written for another `tune`: run d2kd study plan.yaml --tune first" in d2kd().output


def test_a_try_that_fails_is_the_worst(folder):
    tries = [["SOLVER.BASE_LR", "diverges"], ["SOLVER.BASE_LR", 0.4]]
    write({**TUNE, "rows": {"plain": {**PLAIN, "try": tries}}}, rows={"plain": ROWS["plain"]})
    result = d2kd("--tune")
    assert result.exit_code == 0 and "| plain | SOLVER.BASE_LR 0.4 | **30.0** |" in result.output
    assert "Tried and failed: tune/plain/1, seed 0: exit code 1, see " in result.output
    assert "| plain | SOLVER.BASE_LR diverges | - |" in d2kd("--report").output


def test_a_try_without_detections_is_the_worst_and_can_be_reported(folder):
    Path("d2kd.py").write_text(TRAINER.replace(
        "value + int", "(float('nan') if rate == 0.4 else value) + int"))  # fmt: skip
    write()
    assert d2kd("--tune").exit_code == 0 and ".nan" not in Path("out/tuned.yaml").read_text()
    assert d2kd().exit_code == 0
    tried = json.loads(Path("out/report.json").read_text())["tuned"]["rows"]["plain"]["tried"]
    assert [x["bbox/AP"] for x in tried] == [50.0, None]
    found = yaml.safe_load(Path("out/tuned.yaml").read_text())
    found["rows"]["plain"]["tried"][1]["bbox/AP"] = math.nan  # as earlier versions wrote it
    Path("out/tuned.yaml").write_text(yaml.safe_dump(found))
    assert d2kd("--report").exit_code == 0


def test_a_metric_that_is_changed_later_is_read_or_refused(folder):
    write()
    d2kd("--tune")
    Path("out/tuned.yaml").unlink()
    write(metric="segm/AP")
    refused = d2kd("--tune")
    assert "tune/plain/1, seed 0 is finished without segm/AP: metric must name" in refused.output
    assert not Path("out/tuned.yaml").exists()
    for file in Path("out").rglob("metrics.json"):
        file.write_text(file.read_text() + '{"segm/AP": 7.0}\n{"segm/AP": 8')  # a torn row
    result = d2kd("--tune")
    assert result.exit_code == 0 and "| plain | SOLVER.BASE_LR 0.2 | **7.0** |" in result.output


def test_the_tuning_of_another_study_is_not_written_over(folder):
    write(tuned="kept.yaml")
    d2kd("--tune")
    kept = Path("kept.yaml").read_text()
    write({**TUNE, "steps": 90}, tuned="kept.yaml", output="other")
    assert "kept.yaml was written for another `tune`, and may be" in d2kd("--tune").output
    assert Path("kept.yaml").read_text() == kept
    write(tune=None, rows={"plain": {**PLAIN, "tuned": "big"}}, tuned="kept.yaml")
    assert "it is another study's, with these rows in `tune`" in d2kd().output


def test_nothing_is_chosen_where_all_tries_failed(folder):
    teacher = {**PLAIN, "teacher": "nowhere", "try": [[]]}
    tries = {"plain": {**PLAIN, "try": [[]]}, "distilled": teacher}
    write({**TUNE, "rows": tries}, rows={"plain": ROWS["plain"]})
    result = d2kd("--tune")
    assert "tune/distilled/1, seed 0: exit code 4" in result.output and result.exit_code == 1
    assert not Path("out/tuned.yaml").exists()


@pytest.mark.parametrize(("key", "test"), [("TEST", "toy_test"), ("TRAIN", "toy_train")])
def test_reported_images_are_not_tuned_on(folder, key, test):
    with pytest.raises(ValueError, match=f"row 'big' is trained or tested on '{test}'"):
        tune_study(write({**TUNE, "test": test}))


def test_a_plan_without_tries_has_nothing_to_tune(folder):
    write(tune=None)
    assert "plan.yaml has nothing to tune" in d2kd("--tune").output
    assert "give one of them" in d2kd("--tune", "--report").output


def test_unequal_tries_are_said(folder):
    rows = {"plain": {**PLAIN, "try": [[]]}, "b": {**PLAIN, "try": [[], ["SOLVER.MOMENTUM", 0.5]]}}
    with pytest.raises(ValueError, match=r"unequal numbers of tries \(plain 1, b 2\)"):
        write({**TUNE, "rows": rows})
    write({**TUNE, "rows": rows, "unequal": True}, rows={"a": PLAIN})
    assert "**unequal numbers of tries**" in d2kd("--tune").output


@pytest.mark.parametrize(("row", "match"), [
    ({"teacher": "--import=x.py"}, "'--import=x.py' is no config, KEY, VALUE or folder"),
    ({"teacher": "big", "methods": ["--import"]}, "'--import' is no config, KEY"),
    ({"methods": "PKD"}, "methods: 'PKD' is no list of texts"),
    ({"time_of": "nothing"}, "time_of 'nothing' is no row that has steps of its own"),
    ({"time_of": "a"}, "time_of 'a' is no row"), ({"teacher": "tall"}, "with teacher or time_of"),
    ({"tuned": "plane"}, "rows: a: tuned 'plane' is no row of tune"),
    ({"seeds": []}, "rows: a: seeds must name"), ({"seeds": [1.5]}, "seeds: .* whole numbers"),
])  # fmt: skip
def test_mistakes_in_rows(folder, row, match):
    tall = {**PLAIN, "time_of": "big"}
    with pytest.raises(ValueError, match=match):
        write(rows={"big": PLAIN, "tall": tall, "a": {**PLAIN, **row}})


@pytest.mark.parametrize(("change", "match"), [
    ({"test": None}, "tune: missing test"), ({"rows": {}}, "tune: rows: give at least one"),
    ({"tests": "x"}, "tune: key: unknown 'tests'"), ({"steps": "x"}, "no whole number"),
    ({"rows": {"a": PLAIN}}, "rows: a: try: give at least one"),
    ({"rows": {"a": {**PLAIN, "try": [["X"]]}}}, "pairs of KEY and VALUE"),
    ({"rows": {"a": {**PLAIN, "try": [[]], "tuned": "a"}}}, "tuned 'a' is no row above it"),
    ({"rows": {"a": {**PLAIN, "try": [[]], "teacher": "plain"}}}, "'plain' waits for tuning"),
    ({"rows": {"a": {**PLAIN, "try": [[]], "seeds": [1]}}}, "rows: a: give config and, if wanted"),
])  # fmt: skip
def test_mistakes_in_tune(folder, change, match):
    with pytest.raises(ValueError, match=match):
        write({**TUNE, **change})


@pytest.mark.parametrize("text", [
    "[]", "rows: {plain: {options: 1}}", "rows: 3", "tune: {metric: a}", "rows: {}",
    "{tune: {metric: a, test: b, seed: 0, steps: 1}, rows: {a: {options: [], best: 1}}}",
])  # fmt: skip
def test_a_record_of_another_kind_is_refused(folder, text):
    Path("kept.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"kept.yaml was not written by d2kd study"):
        write(tuned="kept.yaml")


def test_a_record_brings_no_options_of_the_command(folder):
    row = {"options": ["--import=x", 1], "tried": [], "best": 1}
    tune = {"metric": "bbox/AP", "test": "toy_val", "seed": 0, "steps": 60}
    record = {"tune": tune, "rows": {"plain": row}}
    Path("kept.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(ValueError, match="'--import=x' is no config, KEY, VALUE or folder"):
        write(tuned="kept.yaml")


def test_equal_time(folder, monkeypatch):
    measured = []

    def measure(plain, distilled):
        measured.append((plain.SOLVER.BASE_LR, distilled.SOLVER.MAX_ITER))
        return Pace(0.5, 1.9)

    monkeypatch.setattr("d2kd.study.equal_time.measure_pace", measure)
    rows = {"KD": {**PLAIN, "options": ["SOLVER.MAX_ITER", 100]},
            "plain": {**PLAIN, "time_of": "KD", "options": ["SOLVER.BASE_LR", 0.2]}}  # fmt: skip
    write(tune=None, rows=rows)
    assert '`d2kd train plain.yaml SOLVER.BASE_LR 0.2 SOLVER.MAX_ITER "(time of KD)"' in (
        d2kd("--report").output
    )
    result = d2kd()
    assert result.exit_code == 0 and measured == [(0.2, 100)], result.output
    assert "SOLVER.BASE_LR 0.2 SOLVER.MAX_ITER 190 SEED 2" in calls()[-1]
    assert "- plain: 190 steps; a step of KD takes as long as 1.9 (0.5 s each" in result.output
    command = json.loads(Path("out/plain/seed_1/result.json").read_text())["command"]
    assert command[5:7] == ["SOLVER.MAX_ITER", "190"]
    assert d2kd().exit_code == 0 and len(measured) == 1 and len(calls()) == 4
    rows["KD"]["options"] = ["SOLVER.MAX_ITER", 50]
    write(tune=None, rows=rows, output="new")
    assert d2kd().exit_code == 0 and len(measured) == 2


def test_rows_that_cannot_be_timed_do_not_stop_the_others(folder):
    rows = {"KD": PLAIN, "plain": {**PLAIN, "time_of": "KD"}}
    Path("out").mkdir()
    Path("out/pace.yaml").write_text("plain: {steps: 3}")
    with pytest.raises(ValueError, match=r"out/pace.yaml was not written by d2kd study"):
        write(tune=None, rows=rows)
    Path("out/pace.yaml").unlink()
    write(tune=None, rows=rows)
    result = d2kd()  # there is no data set toy_train
    assert "plain: its steps could not be timed: " in result.output and result.exit_code == 1
    assert len(calls()) == 2 and "| KD | 41.0 | 42.0 |" in result.output


def test_a_plan_that_is_edited_meanwhile_counts_when_it_is_read_again(tmp_path):
    """So that no row or import of it escapes the checks of the first reading."""
    path = tmp_path / "plan.yaml"
    plan = {"output": str(tmp_path / "out"), "seeds": [1],
            "rows": {"a": {"config": "configs/quickstart/student.yaml"}}}  # fmt: skip
    path.write_text(yaml.safe_dump(plan))
    study = load_study(str(path))
    path.write_text(yaml.safe_dump({**plan, "seeds": [2], "imports": [__file__]}))
    again = study.with_what_was_found()
    assert again == study and not again.imports
