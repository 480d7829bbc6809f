"""--resume goes on with what the run began with, or says what has changed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from d2kd.engine.compare import find_changes
from d2kd.engine.hooks.run_record import go_on
from tests.conftest import ROOT
from tests.helpers import d2kd, detector, write_config

PKD = ["--teacher", "tea.yaml", "--teacher-weights", "tea.pth", "--distill", "PKD"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, squares):
    """A distilled run that has a checkpoint after half of its steps, its teacher and its data."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(squares, "data/images")
        shutil.move("data/images/squares.json", "data/train.json")
        write_config(folder, squares, SOLVER__MAX_ITER=4, SOLVER__CHECKPOINT_PERIOD=2)
        Path("plain.yaml").rename("tea.yaml")
        write_config(folder, squares, SOLVER__MAX_ITER=4, SOLVER__CHECKPOINT_PERIOD=2)
        weights = detector(MODEL__RETINANET__NUM_CLASSES=2, seed=7).state_dict()
        torch.save({"model": weights}, "tea.pth")
        done = d2kd("train", "plain.yaml", "--data", "data", "--output", "out", *PKD)
        assert done.exit_code == 0, done.output
    (folder / "out" / "model_final.pth").unlink()
    (folder / "out" / "last_checkpoint").write_text("model_0000001.pth")
    return folder


@pytest.fixture
def place(stopped, tmp_path, monkeypatch):
    shutil.copytree(stopped, tmp_path / "at")
    monkeypatch.chdir(tmp_path / "at")
    return tmp_path / "at"


def resume(*options):
    return d2kd("train", "out", "--resume", *options)


def contents(folder):
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def replace(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def other_teacher():
    weights = detector(MODEL__RETINANET__NUM_CLASSES=2, seed=8).state_dict()
    torch.save({"model": weights}, "tea.pth")


FORBIDDEN = {
    "rate": (["SOLVER.BASE_LR", 0.5], "SOLVER.BASE_LR was 0.02 and is 0.5"),
    "seed": (["SEED", 9], "SEED was 1 and is 9"),
    "batch": (["SOLVER.IMS_PER_BATCH", 2], "SOLVER.IMS_PER_BATCH was 4 and is 2"),
    "format": (["INPUT.FORMAT", "RGB"], "INPUT.FORMAT was 'BGR' and is 'RGB'"),
    "fewer steps": (["SOLVER.MAX_ITER", 3], "SOLVER.MAX_ITER was 4 and is 3"),
    "method": (["DISTILL.PKD.WEIGHT", 3.0], "DISTILL.PKD.WEIGHT was"),
    "another method": (["--distill", "CWD"], "DISTILL.HEADS was ['PKD'] and is ['CWD']"),
    "model": (["MODEL.RETINANET.NUM_CONVS", 1], "MODEL.RETINANET.NUM_CONVS was 2 and is 1"),
    "start": (["MODEL.WEIGHTS", "tea.pth"], "MODEL.WEIGHTS was no file and is tea.pth sha256"),
    "edited config": (lambda: replace("out/config.yaml", "BASE_LR: 0.02", "BASE_LR: 0.03"),
                      "SOLVER.BASE_LR was 0.02 and is 0.03"),
    "class ids": (lambda: replace("data/train.json", '"id": 2, "name"', '"id": 3, "name"'),
                  "train.json"),
    "a teacher's weights": (other_teacher, "the teachers' weights was tea.pth sha256"),
    "a teacher's config": (lambda: replace("tea.yaml", "FORMAT: BGR", "FORMAT: RGB"),
                           "teacher 0: INPUT.FORMAT was 'BGR' and is 'RGB'"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(FORBIDDEN))
def test_what_must_not_change_stops_with_one_line(place, case):
    change, text = FORBIDDEN[case]
    options = change if isinstance(change, list) else change() or []
    before = contents(place / "out")
    done = resume(*options)
    assert done.exit_code == 1 and text in done.output, done.output
    assert "--resume-anyway" in done.output and len(done.output.strip().splitlines()) == 2
    assert contents(place / "out") == before


def test_what_may_change_is_said_and_is_a_segment_of_the_run(place, caplog):
    first = json.loads(Path("out/run.json").read_text())
    shutil.move("data", "moved")
    done = resume("--data", "moved", "SOLVER.MAX_ITER", 6, "DATALOADER.NUM_WORKERS", 1,
                  "SOLVER.CHECKPOINT_PERIOD", 1)  # fmt: skip
    assert done.exit_code == 0, done.output
    (said,) = [x for x in caplog.messages if "with changes" in x]
    record = json.loads(Path("out/run.json").read_text())
    assert {k: record[k] for k in first if k not in ("segments", "inputs")} == {
        k: v for k, v in first.items() if k not in ("segments", "inputs")
    }
    begun, segment = record["segments"]
    assert (begun["first_iteration"], segment["first_iteration"]) == (0, 2)
    assert segment["changes"] == {
        "SOLVER.MAX_ITER": [4, 6], "DATALOADER.NUM_WORKERS": [0, 1],
        "SOLVER.CHECKPOINT_PERIOD": [2, 1],
        "DATASETS.TRAIN, by name": [["data_train"], ["moved_train"]],
    }  # fmt: skip
    assert all(name in said for name in segment["changes"]) and "segment 2" in said
    assert set(segment) >= {"command", "d2kd", "torch", "detectron2", "ranks", "device"}


def test_a_change_can_be_forced_takes_effect_and_is_recorded(place):
    assert d2kd("train", "out", "--resume-anyway", "SOLVER.BASE_LR", 0.005).exit_code == 0
    segment = json.loads(Path("out/run.json").read_text())["segments"][1]
    assert segment["changes"] == {"SOLVER.BASE_LR": [0.02, 0.005]}
    groups = torch.load("out/model_final.pth")["trainer"]["_trainer"]["optimizer"]["param_groups"]
    assert {group["lr"] for group in groups} == {0.005}
    rows = [json.loads(x) for x in Path("out/metrics.json").read_text().splitlines()]
    assert [row["lr"] for row in rows if "lr" in row][1:] == [0.02, 0.005, 0.005]  # warmed up
    done = d2kd("train", "out", "--resume-anyway", "SOLVER.OPTIMIZER", "AdamW")
    assert done.exit_code == 1 and "SOLVER.OPTIMIZER" in done.output


@pytest.mark.parametrize("record", [None, "", "[]"])
def test_a_folder_without_a_record_resumes_with_one_warning(place, record, caplog):
    Path("out/run.json").unlink()
    if record is not None:
        Path("out/run.json").write_text(record)
    assert resume().exit_code == 0
    (text,) = [x for x in caplog.messages if "run.json" in x]
    assert "is not known" in text
    assert json.loads(Path("out/run.json").read_text())["first_iteration"] == 2


def test_nothing_is_said_where_nothing_has_changed(place, caplog):
    assert resume().exit_code == 0
    assert not [x for x in caplog.messages if "with changes" in x]
    segments = json.loads(Path("out/run.json").read_text())["segments"]
    assert [x["changes"] for x in segments] == [{}, {}]


def test_a_record_of_an_earlier_version_is_compared_and_kept(tmp_path, squares, monkeypatch):
    shutil.copytree(ROOT / "tests" / "engine" / "old_runs", tmp_path / "at")
    monkeypatch.chdir(tmp_path / "at")
    shutil.copytree(squares, "squares")
    Path("distilled/last_checkpoint").write_text("model_0000059.pth")
    before = contents(Path("distilled"))
    done = d2kd("train", "distilled", "--resume", "SOLVER.BASE_LR", 0.5)
    assert done.exit_code == 1 and "SOLVER.BASE_LR was" in done.output, done.output
    assert contents(Path("distilled")) == before
    done = d2kd("train", "distilled", "--resume", "SOLVER.MAX_ITER", 61)
    assert "SOLVER.MAX_ITER was 120 and is 61" in done.output
    done = d2kd("train", "distilled", "--resume-anyway", "SOLVER.MAX_ITER", 61)
    assert done.exit_code == 0, done.output
    record, old = (json.loads(x) for x in (Path("distilled/run.json").read_text(),
                                           before["run.json"]))  # fmt: skip
    assert {key: record[key] for key in old} == old
    assert [x["first_iteration"] for x in record["segments"]] == [0, 60]
    assert record["segments"][1]["changes"] == {"SOLVER.MAX_ITER": [120, 61]}


def test_keys_that_a_record_lacks_are_unknown():
    now = {"config": {"SEED": 1, "NEW.KEY": 5}, "datasets": {}, "weights": {}, "teachers": [],
           "classes": []}  # fmt: skip
    now["config"] |= {"DATASETS.TRAIN": [], "DATASETS.TEST": []}
    assert find_changes({"config": {"SEED": 1}}, now) == [] == find_changes({}, now)
    (change,) = find_changes({"config": {"SEED": 2}}, now)
    assert (change.what, change.before, change.now, change.allowed) == ("SEED", 2, 1, False)


@pytest.mark.parametrize("key, value, default", [
    ("SOLVER.EMA.DECAY", 0.999, 0.0), ("MODEL.CHANNELS_LAST", True, False),
    ("DISTILL.BALANCE.PERIOD", 10, 0), ("DATALOADER.SKIP_BAD_IMAGES", True, False),
])  # fmt: skip
def test_keys_that_its_version_lacked_had_their_defaults(key, value, default):
    now = {"config": {key: value, "DATASETS.TRAIN": [], "DATASETS.TEST": []}, "datasets": {},
           "weights": {}, "teachers": [], "classes": []}  # fmt: skip
    (change,) = find_changes({"config": {"SEED": 1}}, now)
    assert (change.what, change.before, change.now) == (key, default, value)
    assert change.allowed == key.startswith("DATALOADER")
    now["config"][key] = default
    assert find_changes({"config": {"SEED": 1}}, now) == []


def test_a_segment_without_steps_is_replaced_by_the_next():
    """A process that was killed before its first checkpoint had changed something."""
    empty = {"datasets": {}, "weights": {}, "teachers": [], "classes": []}

    def inputs(workers):
        keys = {"DATALOADER.NUM_WORKERS": workers, "DATASETS.TRAIN": [], "DATASETS.TEST": []}
        return {"config": keys, **empty}

    record = {"first_iteration": 0, "command": ["a"]}
    run = {"first_iteration": 60, "command": ["b"]}
    for before, now in ((0, 2), (2, 2), (2, 3)):
        record = go_on(record, inputs(before), run, inputs(now))
    assert [x["first_iteration"] for x in record["segments"]] == [0, 60]
    assert record["segments"][1]["changes"] == {"DATALOADER.NUM_WORKERS": [0, 3]}
