"""Every stage of one pair; `make reproduce-check` goes through all of them."""

import json
import os
from pathlib import Path

import pytest

from tests.helpers import d2kd
from tests.ranks import run_d2kd

PAIR = "retinanet_R_18_FPN_bckd_pkd_from_retinanet_R_50_FPN_1x"
COCO = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), "coco")


@pytest.mark.skipif(not COCO.is_dir(), reason="needs coco/ in DETECTRON2_DATASETS")
def test_every_stage_runs_and_a_finished_one_does_not_run_again(tmp_path):
    console = tmp_path / "console.txt"
    words = "reproduce", PAIR, "--dry-run", "--output", tmp_path / "out"
    run_d2kd(*words, output=console)
    again = d2kd(*words).output
    for text, count in ((console.read_text(), 1), (again, 0)):
        assert "1 of 1 pairs went through every stage" in text
        assert text.count(f"\n{PAIR}, seed 1: bbox/AP") == count
    stages = sorted(x.name.split("_")[0] for x in (tmp_path / "out").iterdir() if x.is_dir())
    assert stages == ["plain", "retinanet", "teacher"]
    final = tmp_path / "out" / PAIR / "seed_1"
    rows = map(json.loads, (final / "metrics.json").read_text().splitlines())
    assert {"loss_BCKD_cls", "loss_PKD_feat", "bbox/AP"} <= set().union(*rows)
    weights = json.loads((final / "run.json").read_text())["weights"]
    assert any("teacher_retinanet_R_50_FPN_3x" in path for path in weights)


def test_a_teacher_of_another_library_has_none(tmp_path, monkeypatch):
    if not COCO.is_dir():
        pytest.skip("needs coco/ in DETECTRON2_DATASETS")
    name = "retinanet_R_50_FPN_setkd_from_rtdetr_R_50_1x"
    done = d2kd("reproduce", name, "--dry-run", "--output", tmp_path)
    assert "no dry run: hf:PekingU/rtdetr_r50vd is downloaded" in done.output
    assert "0 of 1 pairs" in done.output and done.exit_code == 0


@pytest.mark.parametrize(("words", "said"), [
    ([], "Give the NAME of a pair, or --list"),
    (["gfl"], "'gfl' is no published pair; see d2kd reproduce --list"),
    ([PAIR, "--dryrun"], "No such option"),
    (["x.json", "--row", "a"], "x.json"),
])  # fmt: skip
def test_what_is_typed_wrong(words, said):
    done = d2kd("reproduce", *words)
    assert done.exit_code and said in f"{done.output} {done.exception}"
