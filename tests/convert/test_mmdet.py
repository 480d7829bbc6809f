"""Converted checkpoints compute what mmdetection's own modules computed (`record_mmdet.py`)."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from torch.testing import assert_close

from d2kd import build_teacher
from d2kd.checkpoint import load_detector
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.convert import convert_mmdet
from d2kd.convert.reader import read_mmdet
from d2kd.errors import ConfigError
from tests.convert.formula import BOXES, CLASSES, image, state
from tests.helpers import d2kd

DATA, ROOT = Path(__file__).parent / "data", Path(__file__).resolve().parents[2]
DENSE = ["retinanet", "fcos", "fcos_tricks", "autoassign", "atss", "ddod", "gfl"]
TEXT = {"fcos_tricks": "bbox_head=dict(norm_on_bbox=True, centerness_on_reg=True, "
        "center_sampling=True)"}  # fmt: skip


def source(name, folder, change=None, **meta):
    """A file like mmdetection's."""
    tensors = state(json.loads((DATA / f"{name}.json").read_text()))
    if change:
        change(tensors)
    path = folder / f"{name}_source.pth"
    meta = {"cfg": TEXT.get(name, ""), "epoch": 12, **meta}
    torch.save({"meta": meta, "state_dict": tensors}, path)
    return str(path)


def build(path):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "test")
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg).eval(), cfg


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Name -> (detector, what mmdetection computed), converted once."""
    folder, made = tmp_path_factory.mktemp("converted"), {}

    def get(name):
        if name not in made:
            done = convert_mmdet(source(name, folder), str(folder), name)
            model, cfg = build(done.config)
            load_detector(model, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
            made[name] = model, dict(np.load(DATA / f"{name}.npz")), done
        return made[name]

    return get


def close(mine, recorded):
    assert_close(mine, torch.from_numpy(recorded), atol=1e-4, rtol=1e-4)


def ratio_major(x, name):
    """RetinaNet's channels back in mmdetection's order of anchors."""
    if name != "retinanet":
        return x
    return x.unflatten(1, (3, 3, -1)).transpose(1, 2).flatten(1, 3)


@torch.no_grad()
def maps_of(model):
    features = model.backbone(image())
    return model.head([features[f] for f in model.head_in_features])


@pytest.mark.parametrize("name", [*DENSE, "gflv2"])
def test_dense_outputs(converted, name):
    model, recorded, _ = converted(name)
    for i, kind in enumerate(maps_of(model)):
        for level, x in enumerate(kind):
            expected = recorded[f"map{i}_{level}"]
            if name == "gflv2" and i == 0:
                expected = expected[:, :3]
            if name == "gflv2" and i == 2:
                x = x.sigmoid()
            if name == "fcos" and i == 1:
                x = x * model.head.strides[level]
            if name in ("fcos_tricks", "autoassign") and i == 1:
                x = x.relu() * model.head.strides[level]
            close(ratio_major(x, name), expected)


@pytest.mark.parametrize("name", DENSE)
@torch.no_grad()
def test_detections_before_suppression(converted, name):
    model, recorded, _ = converted(name)
    model.test_nms_thresh, model.max_detections_per_image = 1.1, 10**6
    features = model.backbone(image())
    features = [features[f] for f in model.head_in_features]
    images = ImageList(image(), [(64, 96)])
    found = model.forward_inference(images, features, model.head(features))[0]
    found.pred_boxes.clip((64, 96))
    order = np.argsort(-recorded["scores"], kind="stable")
    assert len(found) == len(order) > 300
    close(found.scores, recorded["scores"][order])
    mine = torch.cat([found.pred_boxes.tensor, 100 * found.pred_classes[:, None]], 1)
    theirs = np.concatenate([recorded["boxes"], 100 * recorded["labels"][:, None]], 1)[order]
    theirs = torch.from_numpy(theirs).float()
    near = (mine[:, None] - theirs).abs().amax(2) < 1e-2  # equal scores may swap places
    assert bool(near.any(1).all()) and bool(near.any(0).all())


LOSSES = {
    "autoassign": {name: name for name in ("loss_pos", "loss_neg", "loss_center")},
    "ddod": {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_quality": "loss_iou"},
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_where_predictions_assign(converted, name):
    """One image with four boxes, the last of which contains no cell, and one without any."""
    model, recorded, _ = converted(name)
    model.counters = "shared"  # as mmdetection counts DDOD's positives
    images = ImageList(image().repeat(2, 1, 1, 1), [(64, 96), (64, 96)])
    objects = [Instances((64, 96)), Instances((64, 96))]
    for x, boxes, classes in zip(objects, (BOXES, []), (CLASSES, []), strict=True):
        x.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        x.gt_classes = torch.tensor(classes, dtype=torch.int64)
    features = [model.backbone(images.tensor)[f] for f in model.head_in_features]
    losses = model.forward_training(images, features, model.head(features), objects)
    assert set(losses) == set(LOSSES[name])
    for mine, theirs in LOSSES[name].items():
        assert_close(losses[mine].item(), float(recorded[theirs].sum()), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["faster", "mask"])
@torch.no_grad()
def test_two_stage_outputs(converted, name):
    model, recorded, _ = converted(name)
    features = model.backbone(image())
    names = model.proposal_generator.in_features
    for i, kind in enumerate(model.proposal_generator.rpn_head([features[f] for f in names])):
        for level, x in enumerate(kind):
            close(x, recorded[f"map{i}_{level}"])
    boxes = [Boxes(torch.from_numpy(recorded["rois"]))]
    heads = model.roi_heads
    pooled = heads.box_pooler([features[f] for f in heads.box_in_features], boxes)
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    close(logits, recorded["cls_score"])
    close(deltas, recorded["bbox_pred"])
    if name == "mask":
        pooled = heads.mask_pooler([features[f] for f in heads.mask_in_features], boxes)
        close(heads.mask_head.layers(pooled), recorded["mask"])


def test_retinanet_anchors_are_mmdetections(converted):
    """Their base anchors: ratio-major, ratios of height to width, sizes 4 * 2^(i / 3) strides."""
    model, _, _ = converted("retinanet")
    ratio, octave = 2.0, 1
    size = 4 * 8 * 2 ** (octave / 3)
    half = torch.tensor([-size / ratio**0.5, -size * ratio**0.5, size / ratio**0.5,
                         size * ratio**0.5]) / 2  # fmt: skip
    assert_close(list(model.anchor_generator.cell_anchors)[0][3 * octave + 2], half)


def test_what_is_inferred(converted):
    mask, tricks, v2 = (converted(name)[2] for name in ("mask", "fcos_tricks", "gflv2"))
    arch = mask.architecture
    assert (arch.depth, arch.groups, arch.width_per_group, arch.num_classes) == (50, 2, 2, 3)
    assert tricks.details.norm_on_bbox and not converted("fcos")[2].details.norm_on_bbox
    assert v2.architecture.num_classes == 3 and converted("gfl")[2].architecture.depth == 18
    assert "assumed" in mask.sources["style"]


def test_caffe_style_from_the_config_in_the_file(tmp_path):
    text = "style='caffe', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]"
    done = convert_mmdet(source("atss", tmp_path, cfg=text), str(tmp_path), "caffe")
    config = yaml.safe_load(done.config.read_text())
    assert config["INPUT"]["FORMAT"] == "BGR" and config["MODEL"]["PIXEL_STD"] == [1, 1, 1]
    assert config["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is True
    assert config["MODEL"]["RESNETS"]["NORM"] == "FrozenBN"
    other = convert_mmdet(source("atss", tmp_path, cfg=text), str(tmp_path), "x", "pytorch")
    config = yaml.safe_load(other.config.read_text())
    assert config["INPUT"]["FORMAT"] == "RGB" and config["MODEL"]["RESNETS"]["NORM"] == "BN"


def test_details_from_a_config_beside_the_file(tmp_path):
    (tmp_path / "fcos.py").write_text(TEXT["fcos_tricks"])
    path = source("fcos_tricks", tmp_path, cfg="")
    out = str(tmp_path / "out")
    with pytest.raises(ValueError, match="no config.*Give mmdetection's config with --config"):
        convert_mmdet(path, out)
    done = convert_mmdet(path, out, config_file=str(tmp_path / "fcos.py"))
    assert done.details.norm_on_bbox and done.details.centerness_on_reg


@pytest.mark.parametrize(("channels", "modulated"), [(18, False), (27, True)])
def test_deformable_stages(tmp_path, channels, modulated):
    def deform(tensors):
        for key in [k for k in tensors if ".conv2.weight" in k and ".layer1." not in k]:
            width = tensors[key].shape[0]
            name = key.replace("conv2.weight", "conv2.conv_offset")
            tensors[f"{name}.weight"] = 0.01 * torch.ones(channels, width, 3, 3)
            tensors[f"{name}.bias"] = torch.arange(channels).float()

    done = convert_mmdet(source("atss", tmp_path, deform), str(tmp_path), "deformable")
    resnets = yaml.safe_load(done.config.read_text())["MODEL"]["RESNETS"]
    assert resnets["DEFORM_ON_PER_STAGE"] == [False, True, True, True]
    assert resnets["DEFORM_MODULATED"] is modulated
    tensors = torch.load(done.checkpoint, weights_only=True)["model"]
    assert_close(tensors["backbone.bottom_up.res4.1.conv2.offset.bias"],
                 torch.arange(channels).float())  # fmt: skip


def test_as_teacher_in_one_line_and_by_command(tmp_path):
    path = source("gfl", tmp_path)
    done = d2kd("convert", "mmdet", path, tmp_path / "out", "--name", "gfl")
    assert done.exit_code == 0, done.output
    assert "detector: GFL (from the tensors)" in done.output and "wrote" in done.output
    cfg = get_d2kd_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DISTILL.TEACHER.CONFIG_FILES = (str(tmp_path / "out" / "gfl.yaml"),)
    teacher = build_teacher(cfg)
    expected = np.load(DATA / "gfl.npz")["map0_0"]
    close(maps_of(teacher.detector)[0][0], expected)
    assert teacher.input_format == "RGB"


class Evil:
    def __reduce__(self):
        return os.system, ("touch EVIL",)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_is_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    meta = {"config": "style='caffe'", "hook": Evil(), "set": {1, 2}, "path": Path("x")}
    torch.save({"meta": meta, "state_dict": {"a.weight": torch.ones(2, 3)}}, "f.pth",
               _use_new_zipfile_serialization=not legacy)  # fmt: skip
    tensors, text = read_mmdet("f.pth")
    assert not Path("EVIL").exists() and text == "style='caffe'"
    assert_close(tensors["a.weight"], torch.ones(2, 3))
    pickle.loads(pickle.dumps(Evil()))
    assert Path("EVIL").exists()  # the file would have


def test_the_source_is_not_overwritten(tmp_path):
    path = Path(source("atss", tmp_path))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="would overwrite the source"):
        convert_mmdet(str(path), str(tmp_path))
    (tmp_path / "config.py").write_bytes("# größe".encode("latin1"))
    with pytest.raises(ConfigError, match="config.py is no config of mmdetection"):
        convert_mmdet(str(path), str(tmp_path), config_file=str(tmp_path / "config.py"))
    assert path.read_bytes() == before


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, *shape):
    return lambda tensors: tensors.update({name: torch.ones(shape)})


@pytest.mark.parametrize(("change", "match"), [
    (drop("bbox_head.scales.1.scale"), "1 target tensors left empty: head.scales.1.scale"),
    (drop("backbone.layer3.1.bn2.running_var"), "1 target tensors left empty.*conv2.norm"),
    (put("ema_backbone_conv1_weight", 3), "1 source tensors without a place: ema_backbone"),
    (put("neck.fpn_convs.1.conv.bias", 5), r"1 tensors of another shape.*\(5,\) instead of \(64,"),
    (drop("backbone.layer2.1.conv1.weight"), "left empty"),
    (drop("bbox_head.atss_cls.weight"), "It is none of MaskRCNN, FasterRCNN, GFLv2"),
    (put("backbone.layer2.4.conv1.weight", 4, 16, 1, 1), r"No ResNet of Detectron2 has \[3, 5, 6"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, change, match):
    with pytest.raises(ValueError, match=match):
        convert_mmdet(source("atss", tmp_path, change), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    whole = Path(source("gfl", tmp_path)).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "number.pth")
    cases = {"text": "neither a zip", "cut": "truncated", "list": "no tensors",
             "number": r"other things than tensors by name: a \(int\)"}  # fmt: skip
    for name, match in cases.items():
        with pytest.raises(ValueError, match=match):
            read_mmdet(str(tmp_path / f"{name}.pth"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_mmdet(str(tmp_path / "none.pth"))


def test_classes_that_contradict_the_file(tmp_path):
    path = source("gflv2", tmp_path)
    with pytest.raises(ValueError, match="--classes is 7, but the file has 3"):
        convert_mmdet(path, str(tmp_path), "x", num_classes=7)
    kept = convert_mmdet(path, str(tmp_path), "x", num_classes=4)
    assert kept.architecture.num_classes == 4


@pytest.mark.parametrize(("key", "value", "match"), [
    (("RESNETS", "DEPTH"), 34, "tensors are missing"),
    (("GFL", "NUM_CLASSES"), 7, "have another shape: .*cls_score"),
    (("GFL", "QUALITY"), "DGQP", "tensors are missing: head.reg_conf"),
])  # fmt: skip
def test_a_converted_file_of_another_detector_is_refused(tmp_path, key, value, match):
    done = convert_mmdet(source("gfl", tmp_path), str(tmp_path), "gfl")
    config = yaml.safe_load(done.config.read_text())
    config["MODEL"][key[0]][key[1]] = value
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    cfg = get_d2kd_cfg()
    cfg.MODEL.DEVICE, cfg.DISTILL.TEACHER.CONFIG_FILES = "cpu", (str(tmp_path / "other.yaml"),)
    with pytest.raises(ValueError, match=match):
        build_teacher(cfg)
