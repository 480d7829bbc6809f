"""Checkpoints: a plain student, strict teachers, nothing executed."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors.torch import save_file

from d2kd.checkpoint import SafeCheckpointer, load_detector
from d2kd.file_io import sha256_of
from tests.helpers import clone, d2kd, detector, pair


def test_training_checkpoint_is_a_plain_student(tmp_path):
    student, model = pair()
    SafeCheckpointer(model, str(tmp_path), distillation=model.heads).save("x", iteration=7)
    saved = torch.load(tmp_path / "x.pth", weights_only=True)
    assert set(saved) == {"model", "distillation", "iteration"}
    assert set(saved["model"]) == set(student.state_dict())
    assert len(saved["distillation"]) == len(list(model.heads.parameters())) == 8
    fresh = detector(seed=9)
    incompatible = DetectionCheckpointer(fresh)._load_model(dict(saved))
    assert not incompatible.missing_keys and not incompatible.unexpected_keys
    for key, value in student.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value)


def test_projections_come_back(tmp_path):
    _, model = pair()
    SafeCheckpointer(model, str(tmp_path), distillation=model.heads).save("x")
    _, other = pair()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    SafeCheckpointer(other, str(tmp_path), distillation=other.heads).load(str(tmp_path / "x.pth"))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_loading_a_bare_distiller_fills_the_student(tmp_path):
    student, model = pair()
    DetectionCheckpointer(student, str(tmp_path)).save("plain")
    _, other = pair()
    torch.nn.init.zeros_(other.student.head.cls_score.weight)
    DetectionCheckpointer(other).load(str(tmp_path / "plain.pth"))
    assert torch.equal(other.student.head.cls_score.weight, student.head.cls_score.weight)


def test_caffe_style_backbone_weights_load_by_heuristics(tmp_path):
    student, model = pair()
    kept = clone(student.state_dict())
    arrays = {
        k.removeprefix("backbone."): v.numpy() + 1 for k, v in kept.items() if "backbone" in k
    }
    with open(tmp_path / "imagenet.pkl", "wb") as f:
        pickle.dump({"model": arrays, "__author__": "test", "matching_heuristics": True}, f)
    SafeCheckpointer(model).load(str(tmp_path / "imagenet.pkl"))
    for key, value in student.state_dict().items():
        assert torch.equal(value, kept[key] + 1 if "backbone" in key else kept[key]), key


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
def test_every_format_fills_a_teacher(tmp_path, suffix):
    source, path = detector(seed=1), tmp_path / f"teacher.{suffix}"
    state = source.state_dict()
    if suffix == "pth":
        torch.save({"model": state}, path)
    elif suffix == "pkl":
        with open(path, "wb") as f:
            pickle.dump({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"}, f)
    else:
        save_file({k: v.half() for k, v in state.items()}, path)
    teacher = detector(seed=2)
    load_detector(teacher, str(path), "KEY")
    for key, value in teacher.state_dict().items():
        expected = state[key].half().float() if suffix == "safetensors" else state[key]
        assert torch.equal(value, expected)


def test_missing_tensors_are_counted_and_named(tmp_path):
    state = detector(seed=1).state_dict()
    backbone = {k: v for k, v in state.items() if k.startswith("backbone")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    text = r"KEY: .*backbone.pth: .*12 of 22 tensors are missing: head\.cls_subnet\.0\.weight, .*"
    with pytest.raises(ValueError, match=text) as info:
        load_detector(detector(), str(tmp_path / "backbone.pth"), "KEY")
    assert "DISTILL.TEACHER.CONFIG_FILES" in str(info.value)


def test_class_count_is_seen_by_its_shapes(tmp_path):
    torch.save({"model": detector().state_dict()}, tmp_path / "three.pth")
    other = detector(MODEL__RETINANET__NUM_CLASSES=7)
    with pytest.raises(ValueError, match=r"2 have another shape: head.cls_score.weight \(6, 8"):
        load_detector(other, str(tmp_path / "three.pth"), "KEY")


def test_missing_and_truncated_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="KEY: checkpoint .*nothing.pth' not found"):
        load_detector(detector(), str(tmp_path / "nothing.pth"), "KEY")
    for name in ("cut.pth", "cut.pkl", "cut.safetensors"):
        torch.save({"model": detector().state_dict()}, tmp_path / name)
        if name.endswith("pkl"):
            (tmp_path / name).write_bytes(pickle.dumps({"model": {"a": np.ones(99)}}))
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(
            ValueError, match=f"KEY: .*{name}.*not a readable checkpoint.*truncated"
        ):
            load_detector(detector(), str(tmp_path / name), "KEY")


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth"])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, name, capsys):
    payload = {"model": {"a": Evil()}}
    if name.endswith("pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, tmp_path / name)
    path = tmp_path / name
    with pytest.raises(ValueError, match=f"^KEY: {path}: it is not a readable checkpoint"):
        load_detector(detector(), str(path), "KEY")
    assert "code ran" not in capsys.readouterr().out


STOCK = """
import sys, torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.checkpoint import DetectionCheckpointer
cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.MODEL.DEVICE = "cpu"
found = DetectionCheckpointer(build_model(cfg))._load_model(torch.load(sys.argv[2]))
assert not found.missing_keys and not found.unexpected_keys and not found.incorrect_shapes, found
assert not [m for m in sys.modules if m.startswith("d2kd")]
"""


def test_stock_detectron2_loads_a_distilled_student(tmp_path):
    """A ResNet-18 RetinaNet of a plain yaml, distilled for one step, in a process without d2kd."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from d2kd.testing import make_batch
    from tests.helpers import distill

    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "RetinaNet", "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = ["res3", "res4", "res5"], 16
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    (tmp_path / "student.yaml").write_text(cfg.dump())
    model = distill(build_model(cfg), [detector("FCOS", 12, seed=1)], ("PKD",)).train()
    sum(model(make_batch()).values()).backward()
    SafeCheckpointer(model, str(tmp_path), distillation=model.heads).save("model")
    files = [str(tmp_path / "student.yaml"), str(tmp_path / "model.pth")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOCK, *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_with_another_quality_predictor_is_explained(tmp_path, caplog):
    dgqp = detector("GFL", MODEL__GFL__QUALITY="DGQP")
    torch.save({"model": dgqp.state_dict()}, tmp_path / "dgqp.pth")
    sdgqp = detector("GFL", MODEL__GFL__QUALITY="SDGQP")
    message = r"head.reg_conf.offset.*head.reg_conf.0.weight.*DGQP checkpoint fits SDGQP with"
    with pytest.raises(ValueError, match=message):
        load_detector(sdgqp, str(tmp_path / "dgqp.pth"), "DISTILL.TEACHER.WEIGHTS[0]")
    SafeCheckpointer(sdgqp).load(str(tmp_path / "dgqp.pth"))
    assert "DGQP checkpoint fits SDGQP with SELECTOR fixed" in caplog.text
    reduced = {"SELECTOR": "fixed", "TOPK": 4, "KAPPA": 4.0, "TAU": 0.001}
    reduced = {f"MODEL__GFL__SDGQP__{key}": value for key, value in reduced.items()}
    same = detector("GFL", MODEL__GFL__QUALITY="SDGQP", seed=1, **reduced)
    load_detector(same, str(tmp_path / "dgqp.pth"), "DISTILL.TEACHER.WEIGHTS[0]")
    features = [torch.randn(1, 8, 4, 4) for _ in range(5)]
    for a, b in zip(dgqp.head(features)[2], same.head(features)[2], strict=True):
        torch.testing.assert_close(a, b)


def test_the_tool_writes_weights_alone(tmp_path):
    source, target = detector(seed=1), tmp_path / "x.safetensors"
    path = tmp_path / "x.pth"
    torch.save({"model": source.state_dict(), "optimizer": {"lr": 1.0}}, path)
    command = ("convert", "weights", path, target, "--half")
    done = d2kd(*command)
    assert done.exit_code == 0 and sha256_of(target) in done.output, done.output
    fresh = detector(seed=2)
    load_detector(fresh, str(target), "KEY")
    for key, value in source.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value.half().float())
    path.write_text("nothing")
    done = d2kd(*command, "--overwrite")
    assert done.exit_code == 1 and f"{path} is not a readable" in done.output
