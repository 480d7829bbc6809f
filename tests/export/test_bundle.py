"""A folder that any detector is exported to: taken like its run, and of no machine."""

import json

import pytest
import torch
from detectron2.modeling import build_model

from d2kd.config.loading import load_config
from d2kd.file_io import sha256_of
from d2kd.quantize import Ranges, quantize_student
from d2kd.quantize.layers import Range
from tests.conftest import ROOT
from tests.helpers import d2kd, write_config

TUPLES = ("DATASETS.UNLABELLED", "DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST",
          "DISTILL.TEACHER.CONFIG_FILES", "DISTILL.TEACHER.WEIGHTS")  # fmt: skip
PATHS = (*TUPLES, "OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.TIMM.CHECKPOINT", "DISTILL.SetKD.OFFLINE",
         "DISTILL.MasKD.TOKENS", "DISTILL.TEACHER.CACHE_DIR",
         "DISTILL.TEACHER.CHECK_AGAINST")  # fmt: skip
"""Keys that can name files and folders, beside DATASETS.CUSTOM."""


@pytest.fixture(scope="module", params=["GFL", "GeneralizedRCNN"])
def run(request, squares, tmp_path_factory):
    """The folder of a run of a distilled student, as training leaves it; GFL's is quantized."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    folder.mkdir()
    lowest = {"MODEL__GFL__SCORE_THRESH_TEST": 0.0, "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0}
    cfg = load_config(str(write_config(folder, squares, request.param, **lowest)), [])
    cfg.QUANTIZE.ENABLED = request.param == "GFL"
    torch.manual_seed(0)
    model = build_model(cfg)
    weights = {k: v + 0.05 * torch.randn_like(v) for k, v in model.state_dict().items()}
    state = {"optimizer": {"big": torch.zeros(99)}, **ranges_of(model, cfg)}
    cfg.MODEL.META_ARCHITECTURE, cfg.DISTILL.STUDENT = "Distiller", request.param
    for key in PATHS:
        value = str(folder / key)
        cfg.merge_from_list([key, (value,) if key in TUPLES else value])
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": weights, **state}, folder / "model_best.pth")
    last = {name: -x for name, x in weights.items()}
    torch.save({"model": last, **state}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    best = {"metric": "bbox/AP", "value": 12.5, "iteration": 9}
    (folder / "model_best.json").write_text(json.dumps(best))
    evaluated = {"sha256": sha256_of(folder / "model_best.pth"), "best_f1": {
        "threshold": 0.0078125, "F1": 0.5, "precision": 0.5, "recall": 0.5}}  # fmt: skip
    (folder / "eval").mkdir()
    (folder / "eval" / "results.json").write_text(json.dumps(evaluated))
    record = {"d2kd": "0", "classes": ["red", "green"], "inputs": {"data": str(folder)}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def ranges_of(model, cfg):
    """Wide ones, in which rounding moves scores."""
    quantize_student(model, cfg)
    for x in model.modules():
        if isinstance(x, Range):
            x.low.fill_(-20.0), x.high.fill_(20.0), x.seen.fill_(1.0)
    return {"quantization": Ranges(model).state_dict()} if cfg.QUANTIZE.ENABLED else {}


def test_a_folder_is_taken_like_its_run(run, squares, tmp_path):
    bundle = tmp_path / "v1.2"  # a folder, since it is there
    bundle.mkdir()
    done = d2kd("export", run, "--output", bundle)
    assert done.exit_code == 0, done.output
    assert f"wrote {bundle}: {'GFL' if run.parent.name[:3] == 'GFL' else 'General'}" in done.output
    found = []
    for folder in (run, bundle):
        labels = tmp_path / f"{folder.name}.json"
        words = "predict", folder, squares, "--output", tmp_path / folder.name, "--coco", labels
        done = d2kd(*words)
        assert done.exit_code == 0 and "score threshold 0.0078125" in done.output, done.output
        found.append(json.loads(labels.read_text()))
    assert found[0]["annotations"] and found[0] == found[1]
    assert [x["name"] for x in found[1]["categories"]] == ["red", "green"]


def test_it_is_of_no_machine_and_has_weights_alone(run, tmp_path):
    bundle = tmp_path / "student"
    assert d2kd("export", run, "--output", bundle).exit_code == 0
    assert {x.name for x in bundle.iterdir()} == {
        "config.yaml", "run.json", "model_best.pth", "model_best.json"}  # fmt: skip
    for file in bundle.iterdir():
        assert not [x for x in (run, ROOT) if str(x).encode() in file.read_bytes()], file
    parts = {"model", "quantization"} if run.parent.name[:3] == "GFL" else {"model"}
    assert set(torch.load(bundle / "model_best.pth", weights_only=True)) == parts


def test_what_is_replaced_is_gone(run, tmp_path):
    small = tmp_path / "small"
    for words, name, files in (
        ([], "model_best.pth", {"model_best.json"}),
        (["--last"], "model_final.pth", {"results.json", "last_checkpoint"}),
        ([], "model_best.pth", {"model_best.json"}),
    ):
        done = d2kd("export", run, "--output", small, "--overwrite", *words)
        assert done.exit_code == 0, done.output
        assert {x.name for x in small.iterdir()} == {"config.yaml", "run.json", name, *files}
        found, wanted = (torch.load(x / name, weights_only=True)["model"] for x in (small, run))
        assert all(torch.equal(x, found[key]) for key, x in wanted.items())
    (small / "run.json").unlink(), (small / "run.json").mkdir()
    assert d2kd("export", run, "--output", small, "--overwrite", "--last").exit_code == 1
    assert (small / "model_best.pth").is_file() and (small / "model_best.json").is_file()
    before = (small / "model_best.pth").stat().st_mtime_ns
    for name in ("log.txt", "metrics.json", "model_0000002.pth"):
        (small / name).write_text("of a training")
        done = d2kd("export", run, "--output", small, "--overwrite")
        assert done.exit_code == 1 and "small holds a training: name another folder" in done.output
        (small / name).unlink()
    assert (small / "model_best.pth").stat().st_mtime_ns == before


def test_what_is_there_stays(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "mine.onnx").write_text("mine")
    for name in ("", "mine.onnx"):
        done = d2kd("export", run, "--output", tmp_path / name)
        assert "exists: name another, or add --overwrite" in done.output
    for words in ([run], [run / "config.yaml", "--weights", run / "model_final.pth"]):
        done = d2kd("export", *words, "--output", run, "--overwrite")
        assert done.exit_code == 1 and "holds what is exported: name another folder" in done.output
    done = d2kd("export", run, "--output", tmp_path / "x", "MODEL.TRANSFORMERS.FOLDER", run)
    assert "MODEL.TRANSFORMERS.FOLDER: the detector is built from" in done.output
    done = d2kd("export", run, "--output", tmp_path / "x", "--size", 64, 64)
    assert "is a folder, which has the detector's own size" in done.output
    assert sorted(x.name for x in tmp_path.iterdir()) == ["mine.onnx", "mine.txt"]
    assert d2kd("export", run, "--output", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
