"""Plans on a real tiny detector: run, killed and resumed, reported; mistakes."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from d2kd.config.loading import load_config
from d2kd.errors import ConfigError
from d2kd.robustness import collect, load_plan, plan_of_runs, run_plan, write_report
from d2kd.robustness.summary import summarize
from tests.conftest import ROOT
from tests.helpers import d2kd, write_config
from tests.ranks import start_d2kd

pytest.importorskip("imagecorruptions", reason="needs imagecorruptions-imaug")
ATTACKS = {"epsilons": [4], "steps": 2, "images": 3}


@pytest.fixture(scope="module")
def setting(tmp_path_factory, squares):
    """A config, and two checkpoints of untrained detectors that find something."""
    folder = tmp_path_factory.mktemp("robustness")
    config = write_config(folder, squares, MODEL__RETINANET__SCORE_THRESH_TEST=0.0)
    cfg = load_config(str(config), [])
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save({"model": build_model(cfg).state_dict()}, folder / f"{seed}.pth")
    return folder, config


def write_plan(setting, at, names=("a",), **changes):
    folder, config = setting
    data = {
        "title": "Toy", "output": str(at),
        "models": {
            name: {"config": str(config), "options": ["MODEL.WEIGHTS", str(folder / f"{i}.pth")]}
            for i, name in enumerate(names)
        },
        "corruptions": {"names": ["fog", "contrast"], "severities": [1, 5]},
    }  # fmt: skip
    data.update(changes)
    path = at.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return str(path)


def files(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.json") if p.parent != folder}


def test_all_sections_for_two_models(setting, squares, tmp_path):
    name = f"squares_{squares.name}"
    twin = ["twin", str(squares / "squares.json"), str(squares)]
    path = write_plan(
        setting, tmp_path / "out", ("a", "b"), baseline="b", datasets=[twin], attacks=ATTACKS,
        shift={"swapped": {"dataset": "twin", "classes": {"red": "green"}}}, images=6,
        errors={"sizes": [16]},
    )  # fmt: skip
    plan = load_plan(path)
    assert plan.output == tmp_path / "out"
    run_plan(plan)
    found = collect(plan)
    cells = ["clean", "fog-1", "fog-5", "contrast-1", "contrast-5",
             "attack-none", "fgsm-4", "projected-4", "shift-swapped"]  # fmt: skip
    assert [list(x) for x in found.values()] == [cells, cells]
    values = [found["a"][c]["bbox"]["AP"] for c in ("fog-1", "fog-5", "contrast-1", "contrast-5")]
    summary = summarize(plan, found["a"])
    assert summary["mPC"] == pytest.approx(sum(values) / 4)
    assert summary["drop"] == pytest.approx(found["a"]["clean"]["bbox"]["AP"] - sum(values) / 4)
    assert len({round(found[m][c]["bbox"]["AP"], 9) for m in "ab" for c in cells}) > 6
    mapping = found["a"]["shift-swapped"]["mapping"]
    assert mapping["ignored_detector"] == ["green"] and mapping["ignored_dataset"] == ["red"]
    result = json.loads((tmp_path / "out" / "a" / "fog-5.json").read_text())
    assert len(result["identity"]["weights"]) == 64 and name in result["identity"]["dataset"]

    text = write_report(plan, found)
    for title in ("Summary", "Corruptions", "AP by severity: b", "Domain shift", "Attacks",
                  "Errors", "Groups of objects"):  # fmt: skip
        assert f"## {title}" in text
    assert "1 of the detector: green; 1 of the data set: red" in text
    own = [f"(from {found[m]['clean']['bbox']['AP-red']:.1f})" for m in "ab"]
    assert all(x in text for x in own)
    assert (tmp_path / "out" / "report.png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["summary"]["a"] == summary

    before = files(tmp_path / "out")
    run_plan(plan)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("meta", ["GeneralizedRCNN", "GFL"])
def test_other_detectors(meta, squares, tmp_path):
    config = write_config(tmp_path / meta, squares, meta, MODEL__MASK_ON=False)
    weights = tmp_path / "model.pth"
    torch.manual_seed(0)
    torch.save({"model": build_model(load_config(str(config), [])).state_dict()}, weights)
    models = {"a": {"config": str(config), "options": ["MODEL.WEIGHTS", str(weights)]}}
    corruptions = {"names": "fog", "severities": [3]}
    path = write_plan((tmp_path, config), tmp_path / "out", models=models, attacks=ATTACKS,
                      corruptions=corruptions, images=3)  # fmt: skip
    run_plan(load_plan(path))
    assert len(files(tmp_path / "out")) == 5


def test_a_killed_evaluation_goes_on(setting, tmp_path):
    corruptions = {"names": "weather", "severities": [1, 2, 3, 4, 5]}
    path = write_plan(setting, tmp_path / "killed", corruptions=corruptions)
    registers = tmp_path / "registers.py"
    registers.write_text("import d2kd.testing")
    process = start_d2kd("robustness", path, "--import", registers)
    folder, limit = tmp_path / "killed" / "a", time.time() + 120
    while len(list(folder.glob("*.json"))) < 4 and time.time() < limit:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    kept = files(tmp_path / "killed")
    assert 4 <= len(kept) < 21
    (folder / "fog-3.json.tmp").write_text("{")  # what a kill while writing leaves
    plan = load_plan(path)
    partial = summarize(plan, collect(plan)["a"])
    assert partial["mPC"] is None and "| a |" in write_report(plan, collect(plan))

    run_plan(plan)
    after = files(tmp_path / "killed")
    assert len(after) == 21 and {k: after[k] for k in kept} == kept
    whole = load_plan(write_plan(setting, tmp_path / "whole", corruptions=corruptions))
    run_plan(whole)
    assert collect(plan) == collect(whole)


def test_a_result_of_other_weights_is_not_taken(setting, tmp_path):
    corruptions = {"names": "fog", "severities": [1]}
    path = write_plan(setting, tmp_path / "out", corruptions=corruptions)
    run_plan(load_plan(path))
    folder, config = setting
    other = {"a": {"config": str(config), "options": ["MODEL.WEIGHTS", str(folder / "1.pth")]}}
    plan = load_plan(write_plan(setting, tmp_path / "out", models=other, corruptions=corruptions))
    with pytest.raises(ConfigError, match=r"clean\.json was made with another weights"):
        run_plan(plan)
    options = ["MODEL.WEIGHTS", str(folder / "0.pth"), "QUANTIZE.ENABLED", "True"]
    other["a"]["options"] = options
    plan = load_plan(write_plan(setting, tmp_path / "out", models=other, corruptions=corruptions))
    with pytest.raises(ConfigError, match=r"clean\.json was made with another config"):
        collect(plan)


def test_images_that_are_too_small_are_refused_first(setting, squares, tmp_path):
    data = json.loads((squares / "squares.json").read_text())
    data["images"][1].update(width=31)
    (tmp_path / "small.json").write_text(json.dumps(data))
    small = ["small", str(tmp_path / "small.json"), str(squares)]
    changes = {"datasets": [small], "dataset": "small"}
    name = data["images"][1]["file_name"]
    with pytest.raises(ConfigError, match=f"corruptions: .*{name} has 31 x .* need 32 px a side"):
        run_plan(load_plan(write_plan(setting, tmp_path / "out", **changes)))
    assert not (tmp_path / "out").exists()
    run_plan(load_plan(write_plan(setting, tmp_path / "one", **changes, images=1)))


def test_the_quick_set(setting, tmp_path):
    plan = load_plan(write_plan(setting, tmp_path / "out", attacks=ATTACKS), quick=True)
    assert [x.name for x in plan.cells if x.kind == "corruption"] == [
        "gaussian_noise-3", "defocus_blur-3", "fog-3", "jpeg_compression-3"]  # fmt: skip
    assert plan.images == 100 and plan.output == tmp_path / "out" / "quick"


def test_the_command_on_a_plan(setting, tmp_path):
    path = write_plan(setting, tmp_path / "out", corruptions={"names": "fog", "severities": [2]})
    done = d2kd("robustness", path)
    assert done.exit_code == 0 and "| fog |" in done.output
    assert f"wrote {tmp_path / 'out' / 'report.md'}" in done.output
    done = d2kd("robustness", path, "--output", tmp_path / "other")
    assert done.exit_code == 1 and "give one yaml, whose output is in it, or the" in done.output
    gone = d2kd("robustness", tmp_path / "gone.yaml")
    assert gone.exit_code == 1 and "gone.yaml" in gone.output and "Traceback" not in gone.output


@pytest.fixture
def runs(setting, tmp_path):
    """The folders of two runs, as training leaves them."""
    return write_runs(setting, tmp_path)


def write_runs(setting, to):
    folder, config = setting
    for i, name in enumerate(("plain", "distilled")):
        run = to / name
        run.mkdir()
        shutil.copy(config, run / "config.yaml")
        shutil.copy(folder / f"{i}.pth", run / "model_final.pth")
        (run / "last_checkpoint").write_text("model_final.pth")
    return [to / "plain", to / "distilled"]


@pytest.fixture(scope="module")
def quick(setting, tmp_path_factory):
    """Two runs, and what the command prints and writes that evaluates them in this process."""
    folder = tmp_path_factory.mktemp("quick")
    runs, output = write_runs(setting, folder), folder / "out"
    return runs, d2kd("robustness", *runs, "--output", output, "--quick"), output


def test_the_command_on_runs(quick, setting, tmp_path):
    """Side by side without a yaml: what a plan with the runs' weights gives."""
    _, done, output = quick
    assert done.exit_code == 0, done.output[-500:]
    assert "mPC less that of *plain*" in done.output and "## Errors" in done.output
    found = json.loads((output / "quick" / "report.json").read_text())["results"]
    assert list(found) == ["plain", "distilled"]
    assert {"clean", "fog-3", "fgsm-2", "projected-8"} <= set(found["plain"])
    options = ["MODEL.WEIGHTS", str(setting[0] / "1.pth")]
    plan = load_plan(write_plan(
        setting, tmp_path / "plan", models={"d": {"config": str(setting[1]), "options": options}},
        images=100, corruptions={"names": "fog", "severities": [3]},
    ))  # fmt: skip
    run_plan(plan)
    assert collect(plan)["d"]["fog-3"] == found["distilled"]["fog-3"]


def test_the_command_in_several_processes(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("registers.py").write_text("import d2kd.testing")
    runs, _, output = quick
    one = collect(plan_of_runs(runs, output, quick=True))
    plan = plan_of_runs(runs, tmp_path / "several", quick=True)
    run_plan(plan, 3, ["registers.py"])
    assert collect(plan) == one and len(one["plain"]) == 10
    (tmp_path / "several" / "quick" / "plain" / "fog-3.json").unlink()
    run_plan(plan, 3, ["registers.py"])
    assert collect(plan) == one


def test_the_config_of_a_run_is_that_of_its_yaml(setting, tmp_path):
    """A run's config.yaml holds every key, and lists where defaults are tuples."""
    folder, config = setting
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(load_config(str(config), []).dump())
    short = yaml.safe_load(config.read_text())
    del short["MODEL"]["ROI_BOX_CASCADE_HEAD"]  # tuples in a tuple by default
    config = tmp_path / "short.yaml"
    config.write_text(yaml.safe_dump(short))
    weights = ["MODEL.WEIGHTS", str(folder / "0.pth")]
    models = {"a": {"config": str(config), "options": weights}}
    corruptions = {"names": "fog", "severities": [1]}
    run_plan(load_plan(write_plan(setting, tmp_path / "out", models=models,
                                  corruptions=corruptions)))  # fmt: skip
    models["a"]["config"] = str(run)
    plan = load_plan(write_plan(setting, tmp_path / "out", models=models, corruptions=corruptions))
    assert len(collect(plan)["a"]) == 2


def test_runs_of_one_name_and_mistakes(runs, tmp_path):
    other = tmp_path / "other" / "plain"
    shutil.copytree(runs[0], other)
    plan = plan_of_runs([runs[0], other], tmp_path / "out")
    assert set(plan.models) == {"plain", "other-plain"}
    assert len(plan.cells) == 1 + 75 + 5
    with pytest.raises(ConfigError, match="a run is given twice"):
        plan_of_runs([runs[0], runs[0]], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="models: empty: "):
        plan_of_runs([tmp_path / "empty"], tmp_path / "out")
    (runs[1] / "last_checkpoint").unlink()
    with pytest.raises(FileNotFoundError, match="distilled holds no checkpoint"):
        run_plan(plan_of_runs(runs, tmp_path / "out"))
    done = d2kd("robustness", runs[0], tmp_path / "nowhere")
    assert done.exit_code == 1 and "or the folders of runs" in done.output


@pytest.mark.parametrize("changes, match", [
    ({"corruption": {}}, "key: unknown 'corruption'.*Did you mean 'corruptions'"),
    ({"output": ""}, "missing output"), ({"output": 5}, "output: 5 is no text"),
    ({"corruptions": {"names": ["fogg"]}}, "names: unknown 'fogg'.*Did you mean 'fog'"),
    ({"corruptions": {"severities": [0]}}, "severities: 0 is not one of 1 to 5"),
    ({"corruptions": {"names": 3}}, "names: 3 is no list of texts"),
    ({"corruptions": {"severities": 3}}, "severities: 3 is no list of whole numbers"),
    ({"corruptions": {"severities": [3.0]}}, "severities: .* is no list of whole numbers"),
    ({"errors": {"sizes": [96, 32]}}, "the smallest first"),
    ({"attacks": [2, 8]}, "attacks: .* is no group of keys"),
    ({"attacks": {"steps": 2.5}}, "steps: 2.5 is no whole number"),
    ({"attacks": {"images": 10.0}}, "images: 10.0 is no whole number"),
    ({"images": True}, "images: True is no whole number"), ({"datasets": "x"}, "is no list of"),
    ({"images": -1}, "images is -1"),
    ({"corruptions": {"severity": [1]}}, "corruptions: key: unknown 'severity'"),
    ({"attacks": {"epsilons": [0]}}, "attacks: epsilons, steps and images must be above 0"),
    ({"shift": {"x": {"classes": {}}}}, "shift: x: missing dataset"),
    ({"shift": {"x": {"dataset": ["y"]}}}, r"shift: x: dataset: \['y'\] is no text"),
    ({"shift": {"x": {"dataset": "y", "classes": ["z"]}}}, "classes: .* is no group of keys"),
    ({"models": {"a": {"config": 3}}}, "models: a: config: 3 is no text"),
    ({"models": {"a": {"config": "x.yaml", "options": "A 1"}}}, "options: 'A 1' is no list"),
    ({"models": {}}, "models: give at least one"),
    ({"models": {"a": {"options": []}}}, "models: a: give config"),
    ({"baseline": "b"}, "baseline 'b' is no model; there are a"),
    ({"baseline": 1}, "baseline 1 is no model; there are a"),
])  # fmt: skip
def test_mistakes_in_a_plan_are_explained(setting, tmp_path, changes, match):
    with pytest.raises(ConfigError, match=match):
        load_plan(write_plan(setting, tmp_path / "out", **changes))


def test_mistakes_that_show_when_models_are_read(setting, squares, tmp_path):
    gone = {"a": {"config": "gone.yaml"}}
    with pytest.raises(FileNotFoundError, match="models: a: config: 'gone.yaml' is neither"):
        load_plan(write_plan(setting, tmp_path / "out", models=gone))
    unnamed = {"a": {"config": str(setting[1])}}
    plan = load_plan(write_plan(setting, tmp_path / "out", models=unnamed))
    with pytest.raises(ConfigError, match="models: a: name a checkpoint"):
        run_plan(plan)
    shift = {"x": {"dataset": "nowhere"}}
    with pytest.raises(ConfigError, match="no data set is named 'nowhere'"):
        run_plan(load_plan(write_plan(setting, tmp_path / "out", shift=shift)))
    shift = {"x": {"dataset": f"squares_{squares.name}", "classes": {"blue": "red"}}}
    with pytest.raises(ConfigError, match="shift: x: classes, of the detector: unknown 'blue'"):
        run_plan(load_plan(write_plan(setting, tmp_path / "out", shift=shift)))
    assert not (tmp_path / "out").exists()


def test_models_that_are_tested_on_different_data(setting, squares, tmp_path):
    folder, config = setting
    data = json.loads((squares / "squares.json").read_text())
    part = tmp_path / "part.json"
    part.write_text(json.dumps({**data, "images": data["images"][:6]}))
    weights = ["MODEL.WEIGHTS", str(folder / "0.pth")]
    options = ["DATASETS.CUSTOM", str([["part", str(part), str(squares)]]),
               "DATASETS.TEST", "('part',)"]  # fmt: skip
    models = {
        "a": {"config": str(config), "options": weights},
        "b": {"config": str(config), "options": [*weights, *options]},
    }
    plan = load_plan(write_plan(setting, tmp_path / "out", models=models))
    with pytest.raises(ConfigError, match="different data sets: .*'b': 'part'"):
        run_plan(plan)


def test_the_plans_of_the_repository_load(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = sorted(ROOT.glob("studies/robustness/*.yaml"))
    assert found
    for path in found:
        assert load_plan(str(path)).cells
