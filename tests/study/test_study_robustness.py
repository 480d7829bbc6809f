"""A study whose finished runs are evaluated on corrupted images and another data set."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import d2kd.study as room
from d2kd.errors import ConfigError, RunError
from d2kd.file_io import is_locked
from d2kd.study import (
    collect,
    collect_robustness,
    load_study,
    run_robustness,
    write_report,
)
from tests.helpers import d2kd, detector, write_config
from tests.study.jobs import quick_executor
from tests.warm import NAME

pytest.importorskip("imagecorruptions")


@pytest.fixture
def study(tmp_path, squares, monkeypatch):
    """Two rows and two seeds, one run of which is not finished; real configs and weights."""
    monkeypatch.chdir(tmp_path)
    return write_study(squares)


@pytest.fixture(scope="module")
def results(tmp_path_factory, squares):
    """What is written when such a study is evaluated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("evaluated"))
        run_robustness(write_study(squares))
        return Path("out/robustness").resolve()


@pytest.fixture
def evaluated(study, results):
    """The study with its robustness, which it lacked before."""
    assert collect_robustness(study) == {}
    shutil.copytree(results, "out/robustness")
    return study


def write_study(squares):
    config = write_config(Path("c"), squares, DATASETS__TRAIN=())
    Path("mine.py").write_text("import d2kd.testing\n")
    data = {
        "imports": ["mine.py"],
        "title": "Toy", "output": "out", "seeds": [1, 2],
        "rows": {"plain": {"config": str(config)}, "distilled": {"config": str(config)}},
        "robustness": {
            "corruptions": {"names": ["contrast"], "severities": [1, 5]},
            "shift": {"same": {"dataset": f"squares_{squares.name}"}},
            "attacks": {"epsilons": [4], "steps": 2, "images": 2},
            "errors": {"sizes": [16]},
        },
    }  # fmt: skip
    Path("study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    study = load_study("study.yaml")
    for number, run in enumerate(study.runs[:3]):
        run.folder.mkdir(parents=True)
        (run.folder / "config.yaml").write_bytes(config.read_bytes())
        state = detector(seed=number, MODEL__RETINANET__NUM_CLASSES=2).state_dict()
        torch.save({"model": state}, run.folder / "model_final.pth")
        result = {"command": run.command, "bbox/AP": float(number)}
        (run.folder / "result.json").write_text(json.dumps(result))
    return study


def test_measures_by_row_and_seed(evaluated):
    files = {str(x.relative_to("out/robustness")): x.read_bytes()
             for x in Path("out/robustness").rglob("*.json")}  # fmt: skip
    assert {name.split("/")[0] for name in files} == {"seed_1", "seed_2"}
    assert "seed_2/distilled/clean.json" not in files
    found = collect_robustness(evaluated)
    assert set(found) >= {"mPC", "drop", "AP, shift-same", "AP, fgsm-4", "AP, projected-4"}
    assert set(found["mPC"]["plain"]) == {1, 2} and set(found["mPC"]["distilled"]) == {1}
    aps = [json.loads(files[f"seed_1/plain/contrast-{n}.json"])["results"]["bbox"]["AP"] or 0
           for n in (1, 5)]  # fmt: skip
    assert found["mPC"]["plain"][1] == pytest.approx(sum(aps) / 2)
    clean = json.loads(files["seed_1/plain/clean.json"])["results"]["bbox"]["AP"]
    assert found["AP, shift-same"]["plain"][1] == pytest.approx(clean)
    run_robustness(evaluated)  # nothing is run again
    assert {str(x.relative_to("out/robustness")): x.read_bytes()
            for x in Path("out/robustness").rglob("*.json")} == files  # fmt: skip


def test_the_report_has_a_table_for_each(evaluated):
    found = collect_robustness(evaluated)
    text = write_report(evaluated, collect(evaluated), found)
    for name in ("bbox/AP", "mPC", "AP, shift-same"):
        assert f"`{name}`; mean, sample standard deviation" in text
    assert set(json.loads(Path("out/report.json").read_text())["more"]) == set(found)


def test_errors_have_one_table_for_all_types(evaluated):
    found = collect_robustness(evaluated)
    clean = json.loads(Path("out/robustness/seed_2/plain/clean.json").read_text())["results"]
    for kind in ("classification", "background", "missed"):
        value = found[f"AP50 lost to errors: {kind}"]["plain"][2]
        assert value == clean["error_cost"][kind]
    assert (
        found["AP by size: size above 16 px"]["plain"][2] == clean["AP_by_size"]["size above 16 px"]
    )

    values = {"plain": {1: 3.0, 2: 5.0}, "distilled": {1: 2.0, 2: 3.0}}
    toy = {"lost: missed": values, "lost: both": {"plain": {1: 1.5}, "distilled": {}}}
    text = write_report(evaluated, collect(evaluated), toy)
    assert "| | missed | both |\n|---|---|---|\n| plain | 4.0 | 1.5 |\n" in text
    assert "| distilled | 2.5 (-1.5 / 0.50) | - (- / -) |" in text and "`lost`; mean" in text


def test_jobs_of_an_executor_give_the_same(evaluated, tmp_path, warm_python, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv(NAME, warm_python)
    found = collect_robustness(evaluated)
    shutil.rmtree("out/robustness")
    executor = quick_executor(tmp_path / "submitit", warm_python)
    run_robustness(evaluated, 2, executor)
    assert collect_robustness(evaluated) == found
    assert not any(map(is_locked, Path("out").rglob("*.lock")))
    shutil.rmtree("out/robustness")
    Path("mine.py").write_text("import nothing_of_the_kind\n")
    with pytest.raises(RunError, match="stopped: ModuleNotFoundError: .*nothing_of_the_kind"):
        run_robustness(evaluated, 2, executor)


def test_evaluations_at_the_same_time_give_the_same(evaluated):
    found = collect_robustness(evaluated)
    shutil.rmtree("out/robustness")
    run_robustness(evaluated, jobs=2)
    assert collect_robustness(evaluated) == found and set(found["mPC"]["plain"]) == {1, 2}


def test_a_file_to_import_goes_to_every_run(study):
    assert study.runs[0].command[3:5] == ["--import", "mine.py"]
    Path("mine.py").unlink()
    with pytest.raises(FileNotFoundError, match="study.yaml: imports: no such file: mine.py"):
        load_study("study.yaml")


def test_errors_are_left_out_where_a_study_does_not_ask(study):
    data = yaml.safe_load(Path("study.yaml").read_text())
    del data["robustness"]["errors"]
    Path("study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    study = load_study("study.yaml")
    run_robustness(study)
    assert not [name for name in collect_robustness(study) if ":" in name]


def test_only_the_rows_asked_for_are_evaluated(study):
    data = yaml.safe_load(Path("study.yaml").read_text())
    data["robustness"] = {"rows": ["distilled"], "corruptions": {"names": ["contrast"],
                                                                 "severities": [1]}}  # fmt: skip
    Path("study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    study = load_study("study.yaml")
    run_robustness(study)
    assert [x.name for x in Path("out/robustness/seed_1").iterdir()] == ["distilled"]
    more = collect_robustness(study)
    assert set(more["mPC"]["distilled"]) == {1}
    first, *others = write_report(study, collect(study), more).split("`mPC`")
    assert "| plain |" in first and "| distilled |" in others[0] and "| plain |" not in others[0]


def test_a_wrong_section_is_named(study):
    data = yaml.safe_load(Path("study.yaml").read_text())
    data["robustness"] = {"corruption": {}}
    Path("study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(ConfigError, match="study.yaml: robustness: key.*'corruption'.*corruptions"):
        load_study("study.yaml")


def test_an_evaluation_that_fails_leaves_the_report(study, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "cell.json")

    monkeypatch.setattr(room, "run_robustness", fail)
    monkeypatch.setattr(room, "run_plan", lambda *_: ["plain, seed 2: exit code 1"])
    done = d2kd("study", "study.yaml", "--import", "mine.py")
    assert "plain, seed 2: exit code 1" in str(done.exception)
    assert "cell.json" in str(done.exception)
    assert Path("out/report.md").is_file() and "| distilled |" in done.output
