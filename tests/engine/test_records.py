"""What a resumed run compares: content rather than names, also of earlier and damaged records."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from d2kd.checkpoint import SafeCheckpointer
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.engine.changes import check_resumed, inputs_of, read_record, recorded_inputs
from d2kd.engine.compare import find_changes
from d2kd.engine.hooks.best_checkpoint import BestStudent
from d2kd.engine.provenance import dataset_fingerprint
from d2kd.errors import ConfigError
from tests.helpers import write_config


@pytest.fixture
def place(tmp_path, squares, monkeypatch):
    """A plain config without data, and three files of weights, two of them of one content."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, squares)
    for name, text in {"a": "1", "b": "1", "c": "2"}.items():
        Path(f"{name}.pth").write_text(text)
    return tmp_path


def config(**keys):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, "plain.yaml", "--config-file")
    cfg.OUTPUT_DIR, cfg.DATASETS.CUSTOM, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = "out", [], (), ()
    cfg.merge_from_list([x for key, value in keys.items() for x in (key.replace("__", "."), value)])
    return cfg


def changes(before, **now):
    return {x.what: x.allowed for x in find_changes(before, inputs_of(config(**now)))}


def distilled(start, *teachers):
    files = {"DISTILL__TEACHER__CONFIG_FILES": ("plain.yaml",) * len(teachers)}
    return {"MODEL__META_ARCHITECTURE": "Distiller", "DISTILL__STUDENT": "RetinaNet", **files,
            "MODEL__WEIGHTS": start, "DISTILL__TEACHER__WEIGHTS": teachers}  # fmt: skip


def test_unlabelled_images_and_trunks_are_compared_by_content(place, squares):
    shutil.copytree(squares, "more")
    keys = {"DATASETS__UNLABELLED": ("more",), "MODEL__TIMM__CHECKPOINT": "a.pth"}
    before = inputs_of(config(**keys))
    assert changes(before, **keys) == {}
    shutil.move("more", "moved")
    moved = {"DATASETS__UNLABELLED": ("moved",), "MODEL__TIMM__CHECKPOINT": "b.pth"}
    assert changes(before, **moved) == {"DATASETS.UNLABELLED, by name": True}
    assert changes(before, **{**moved, "MODEL__TIMM__CHECKPOINT": "c.pth"}) == {
        "DATASETS.UNLABELLED, by name": True, "MODEL.TIMM.CHECKPOINT": False,
    }  # fmt: skip
    shutil.copy("moved/0.png", "moved/00.png")
    assert changes(before, **moved) == {"DATASETS.UNLABELLED": False}


@pytest.mark.parametrize("start", ["", "a.pth"])
def test_one_file_for_several_in_a_record_of_an_earlier_version(place, start):
    before = inputs_of(config(**distilled(start, "a.pth", "a.pth")))
    del before["teachers' weights"]
    assert changes(before, **distilled(start, "a.pth", "b.pth")) == {}
    other = distilled(start, "a.pth", "c.pth")
    assert changes(before, **other) == {"the teachers' weights": False}
    assert changes(before, **distilled("c.pth", "a.pth", "a.pth")) == {"MODEL.WEIGHTS": False}


def test_a_config_of_an_earlier_version_is_scaled_before_it_is_compared(place):
    cfg = config(SOLVER__REFERENCE_WORLD_SIZE=2, SOLVER__IMS_PER_BATCH=4)
    Path("out").mkdir()
    Path("out/last_checkpoint").write_text("model_0000001.pth")
    Path("out/config.yaml").write_text(cfg.dump())
    Path("out/run.json").write_text(json.dumps({"d2kd": "0.1.0", "ranks": 1}))
    check_resumed(cfg, anyway=False)
    assert read_record(Path("out"))["inputs"]["config"]["SOLVER.IMS_PER_BATCH"] == 2
    Path("out/run.json").write_text("{}")
    Path("out/config.yaml").write_text(yaml.dump(["a"]))
    with pytest.raises(ConfigError, match=r"out/config.yaml is not what a run writes there"):
        check_resumed(cfg, anyway=False)


@pytest.mark.parametrize("record", [
    [], {"weights": None, "datasets": None}, {"inputs": {"weights": []}}, {"segments": [{}]},
    {"inputs": {"config": []}}, {"inputs": {"teachers": [1]}}, {"command": "d2kd"},
    {"segments": [{"first_iteration": 0, "changes": {"SEED": 1}}]}, {"inputs": []},
])  # fmt: skip
def test_a_record_of_another_shape_is_none(tmp_path, record):
    Path(tmp_path, "run.json").write_text(json.dumps(record))
    assert read_record(tmp_path) == {} == recorded_inputs(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", '{"metric": "m", "value": "x", "iteration": 1}'])
def test_a_damaged_record_of_the_best_model_is_named(tmp_path, text):
    hook = BestStudent(1, "m", torch.nn.Linear(1, 1), str(tmp_path))
    hook.trainer = SimpleNamespace(start_iter=1)
    Path(tmp_path, "model_best.json").write_text(text)
    with pytest.raises(ConfigError, match=r"model_best.json is damaged: delete it"):
        hook.before_train()


def test_a_damaged_last_checkpoint_is_named(tmp_path):
    Path(tmp_path, "last_checkpoint").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ConfigError, match="last_checkpoint is damaged"):
        SafeCheckpointer(torch.nn.Linear(1, 1), str(tmp_path)).get_checkpoint_file()


def test_data_that_is_not_here_has_no_fingerprint(place, squares):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    DatasetCatalog.register("gone", list)
    try:
        MetadataCatalog.get("gone").json_file = "no/train.json"
        assert dataset_fingerprint("gone") == ""
    finally:
        DatasetCatalog.remove("gone")
        MetadataCatalog.remove("gone")


def test_a_file_is_hashed_once_and_again_after_a_change(place, monkeypatch):
    hashed = []
    monkeypatch.setattr("d2kd.engine.provenance.sha256_of", lambda path: hashed.append(path) or "x")
    for _ in range(2):
        inputs_of(config(MODEL__WEIGHTS="c.pth"))
    assert len(hashed) == 1
    Path("c.pth").write_text("longer")
    inputs_of(config(MODEL__WEIGHTS="c.pth"))
    assert len(hashed) == 2
