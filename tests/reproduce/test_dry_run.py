"""Every stage of one pair; `make reproduce-check` goes through all of them."""

import contextlib
import errno
import json
import os
from pathlib import Path

import pytest

import d2kd.reproduce as room
from d2kd.errors import ConfigError
from d2kd.reproduce import dry_run, load_pairs, new_dry_run, stand_in
from tests.faults.conftest import FULL
from tests.helpers import d2kd
from tests.ranks import run_d2kd

PAIR = "retinanet_R_18_FPN_bckd_pkd_from_retinanet_R_50_FPN_1x"
COCO = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), "coco")


@pytest.mark.skipif(not FULL, reason="takes long: make test-faults")
@pytest.mark.skipif(not COCO.is_dir(), reason="needs coco/ in DETECTRON2_DATASETS")
def test_every_stage_runs(tmp_path):
    console, out = tmp_path / "console.txt", tmp_path / "out"
    for place in (out, out / "dry_run_1"):
        (place / PAIR).mkdir(parents=True)
        (place / PAIR / "model_final.pth").touch()
    run_d2kd("reproduce", PAIR, "--dry-run", "--output", out, output=console)
    text = console.read_text()
    assert f"1 of 1 pairs went through every stage in {out / 'dry_run_2'}" in text
    assert sorted(x.parent.parent for x in out.rglob("*.pth")) == [out, out / "dry_run_1"]
    out /= "dry_run_2"
    assert f"\n{PAIR}, seed 1: bbox/AP" in text
    stages = sorted(x.name.split("_")[0] for x in out.iterdir() if x.is_dir())
    assert stages == ["plain", "retinanet", "teachers"]
    final = out / PAIR / "seed_1"
    rows = map(json.loads, (final / "metrics.json").read_text().splitlines())
    assert {"loss_BCKD_cls", "loss_PKD_feat", "bbox/AP"} <= set().union(*rows)
    weights = json.loads((final / "run.json").read_text())["weights"]
    assert any("teachers/retinanet_R_50_FPN_3x" in path for path in weights)


def test_a_teacher_whose_library_is_missing_has_none(tmp_path, monkeypatch):
    if not COCO.is_dir():
        pytest.skip("needs coco/ in DETECTRON2_DATASETS")
    monkeypatch.setattr(stand_in, "find_spec", lambda name: None)
    name = "retinanet_R_50_FPN_setkd_from_rtdetr_R_50_1x"
    done = d2kd("reproduce", name, "--dry-run", "--output", tmp_path)
    said = "no dry run: hf:PekingU/rtdetr_r50vd is built with transformers: pip install d2kd[hf]"
    assert said in done.output.splitlines()[0]
    assert "0 of 1 pairs" in done.output and done.exit_code == 0


@pytest.mark.skipif(not COCO.is_dir(), reason="needs coco/ in DETECTRON2_DATASETS")
def test_a_stage_that_fails_does_not_end_the_others(tmp_path, monkeypatch):
    pairs = {name: pair for name, pair in load_pairs().items() if name == PAIR}
    monkeypatch.setattr(room, "load_pairs", lambda: pairs)
    monkeypatch.setattr(dry_run, "write_stand_in", lambda pair, folder: [])
    monkeypatch.setattr(dry_run, "run_stages", lambda study, _: [f"{study.title}: it failed"])
    done = d2kd("reproduce", "--dry-run", "--output", tmp_path)
    assert done.exit_code and "0 of 1 pairs" in done.output
    assert f"{list(pairs)[0]}: it failed" in str(done.exception)


@pytest.mark.skipif(not COCO.is_dir(), reason="needs coco/ in DETECTRON2_DATASETS")
def test_a_stand_in_that_fails_does_not_end_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "load_pairs", lambda: dict(list(load_pairs().items())[:2]))
    monkeypatch.setattr(dry_run, "run_stages", lambda study, _: [])
    errors = [AttributeError("no\n  RTDetr"), OSError(errno.ENOSPC, "full", "model.pth")]

    def fail(pair, folder):
        raise errors.pop(0)

    monkeypatch.setattr(dry_run, "write_stand_in", fail)
    done, names = d2kd("reproduce", "--dry-run", "--output", tmp_path), [*load_pairs()][:2]
    assert done.exit_code and "0 of 2 pairs" in done.output
    assert f"{names[0]}: no RTDetr\n{names[1]}: model.pth: full" in str(done.exception)


@pytest.mark.skipif(not COCO.is_dir(), reason="needs coco/ in DETECTRON2_DATASETS")
def test_what_lies_in_the_folder_stays(tmp_path):
    trained = tmp_path / PAIR / "seed_1" / "model_final.pth", tmp_path / "dry_run_1" / "x.pth"
    for file in trained:
        file.parent.mkdir(parents=True)
        file.touch()
    with new_dry_run(tmp_path) as (one, _), new_dry_run(tmp_path) as (other, options):
        (other / "teachers").mkdir()
        (other / "teachers" / "model.pth").touch()
        assert str(other / "dry_train.json") in options[options.index("DATASETS.CUSTOM") + 1]
    assert (one, other) == (tmp_path / "dry_run_2", tmp_path / "dry_run_3")
    assert sorted(tmp_path.rglob("*.pth")) == sorted(trained)
    assert (one / "dry_train.json").exists()


@pytest.mark.parametrize("error", [ConfigError("other options"), RuntimeError("a defect")])
def test_weights_go_whatever_happens(tmp_path, monkeypatch, error):
    pair, left = load_pairs()[PAIR], []

    def fail(study, _):
        left.extend(study.rows[name][0].folder / "model_final.pth" for name in study.rows)
        for file in left:
            file.parent.mkdir(parents=True)
            file.touch()
        raise error

    monkeypatch.setattr(dry_run, "run_stages", fail)
    monkeypatch.setattr(dry_run, "write_stand_in", lambda pair, folder: [])
    refused = pytest.raises(RuntimeError, match="a defect")
    with refused if isinstance(error, RuntimeError) else contextlib.nullcontext():
        failed, lines = dry_run.go_through(pair, tmp_path, 1, [])
        assert (failed, lines) == ([f"{PAIR}: other options"], [])
    assert len(left) == 2 and not any(file.exists() for file in left)


@pytest.mark.parametrize(("words", "said"), [
    ([], "Give the NAME of a pair, or --list"),
    (["--row", "a", "--seed", "1"], "Give the NAME of a pair, or --list"),
    (["gfl"], "'gfl' is no published pair; see d2kd reproduce --list"),
    ([PAIR, "--dryrun"], "No such option"),
    ([PAIR, "--seed", "3"], "--seed does not go with a pair"),
    ([PAIR, "--dry-run", "--seeds", "3"], "--seeds does not go with --dry-run"),
    ([PAIR, "--dry-run", "DISTILL.TEACHER.WEIGHTS", "x"], "WEIGHTS does not go with --dry-run"),
    ([PAIR, "--dry-run", "DISTILL.TEACHER.CONFIG_FILES", "x"], "FILES does not go with --dry-run"),
    ([PAIR, "--import", "x.py"], "--import does not go with a pair"),
    (["x.json"], "x.json is a report: add --row ROW --seed SEED"),
    (["x.json", "--row", "a"], "--row needs --seed"),
    (["x.json", "--row", "a", "--seed", "1", "--dry-run"], "--dry-run does not go with --row"),
    (["x.json", "SEED", "2", "--row", "a", "--seed", "1"], "KEY VALUE does not go with --row"),
    (["x.json", "--row", "a", "--seed", "1"], "x.json cannot be read"),
])  # fmt: skip
def test_what_is_typed_wrong(words, said):
    done = d2kd("reproduce", *words)
    assert done.exit_code and said in f"{done.output} {done.exception}"
