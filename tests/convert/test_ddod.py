"""DDOD and ATSS with an IoU branch: mmdetection's names, and what tells them apart."""

import numpy as np
import pytest
import torch
import yaml
from torch.testing import assert_close
from torchvision.ops import deform_conv2d

from d2kd.checkpoint import load_detector
from d2kd.convert import convert_mmdet
from d2kd.errors import ConfigError
from tests.convert.test_mmdet import DATA, build, close, maps_of, source

NEW, OLD = "conv.conv_offset", "conv_offset"  # as mmcv names the offsets, and old versions of it


def iou_branch(tensors):
    """The fixture is of an ATSS with centerness; the layer is the same."""
    for kind in ("weight", "bias"):
        tensors[f"bbox_head.atss_iou.{kind}"] = tensors.pop(f"bbox_head.atss_centerness.{kind}")


def ddod(offset=NEW, scale=0.0):
    def change(tensors):
        iou_branch(tensors)
        rng = torch.Generator().manual_seed(0)
        for tower in ("cls", "reg"):
            width = tensors[f"bbox_head.{tower}_convs.0.conv.weight"].shape[0]
            name = f"bbox_head.{tower}_convs.0.{offset}"
            tensors[f"{name}.weight"] = scale * torch.randn(18, width, 3, 3, generator=rng)
            tensors[f"{name}.bias"] = 1e-3 * torch.arange(18) * (scale > 0)
            tensors[f"{name}.bias"][0] += 1e-9  # tensors of nothing but zeros are suspicious

    return change


def converted(tmp_path, change, **meta):
    done = convert_mmdet(source("atss", tmp_path, change, **meta), str(tmp_path), "made")
    model, cfg = build(done.config)
    load_detector(model, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    return model, done, cfg


@pytest.mark.parametrize(("offset", "change"), [(NEW, ddod()), (OLD, ddod(OLD)), ("", iou_branch)])
def test_without_offsets_it_computes_what_mmdetection_did(tmp_path, offset, change):
    """Zero offsets, or none: all three outputs of mmdetection's ATSS."""
    meta = {} if offset else {"cfg": "bbox_head=dict(type='DDODHead')"}
    model, done, cfg = converted(tmp_path, change, **meta)
    assert type(model).__name__ == done.architecture.detector == "DDOD"
    assert cfg.MODEL.DDOD.DEFORM is bool(offset) and ("DDOD" in done.sources) is not bool(offset)
    recorded = np.load(DATA / "atss.npz")
    for i, kind in enumerate(maps_of(model)):
        for level, x in enumerate(kind):
            close(x, recorded[f"map{i}_{level}"])


@pytest.mark.parametrize("offset", [NEW, OLD])
def test_offsets_of_each_tower(tmp_path, offset):
    made, tensors = {}, {}

    def change(x):
        ddod(offset, 0.1)(x)
        tensors.update(x)

    model, done, _ = converted(tmp_path, change)
    made = torch.load(done.checkpoint, weights_only=True)["model"]
    x = torch.rand(1, 64, 6, 7)
    for tower, subnet in (("cls", model.head.cls_subnet), ("reg", model.head.bbox_subnet)):
        weight = tensors[f"bbox_head.{tower}_convs.0.conv.weight"]
        name = f"bbox_head.{tower}_convs.0.{offset}"
        moved = torch.nn.functional.conv2d(
            x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1
        )
        assert_close(subnet[0](x), deform_conv2d(x, moved, weight, padding=1))
    assert_close(
        made["head.bbox_subnet.0.offset.bias"], tensors[f"bbox_head.reg_convs.0.{offset}.bias"]
    )


def test_an_iou_branch_alone_is_an_atss(tmp_path):
    model, done, cfg = converted(tmp_path, iou_branch)
    assert type(model).__name__ == "ATSS" and model.quality == cfg.MODEL.ATSS.QUALITY == "iou"
    assert "DDOD" not in done.sources
    plain = yaml.safe_load(
        convert_mmdet(source("atss", tmp_path), str(tmp_path), "x").config.open()
    )
    assert plain["MODEL"]["ATSS"]["QUALITY"] == "centerness"


@pytest.mark.parametrize(("text", "rule", "exponent"), [
    ("reg_assigner=dict(type='ATSSAssigner', topk=9, alpha=0.5)", "atss", 0.5),
    ("assigner=dict(type='DDODTopkAssigner', topk=9, alpha=0.6)", "topk", 0.6),
])  # fmt: skip
def test_the_rule_of_assignment_is_in_the_text(tmp_path, text, rule, exponent):
    _, _, cfg = converted(tmp_path, ddod(), cfg=text)
    assert (cfg.MODEL.DDOD.ASSIGNER, cfg.MODEL.DDOD.REG_EXPONENT) == (rule, exponent)
    assert cfg.MODEL.FPN.TOP_BLOCK_INPUT == "output" and not cfg.MODEL.FPN.TOP_BLOCK_RELU


@pytest.mark.parametrize(("name", "shape", "match"), [
    ("bbox_head.cls_convs.0.conv.conv_offset.bias", (27,), r"\(27,\) instead of \(18,\)"),
    ("bbox_head.reg_convs.1.conv.conv_offset.weight", (18, 64, 3, 3), "without a place"),
    ("bbox_head.cls_convs.0.conv_offset.bias", (18,), "1 targets of several tensors: head.cls_sub"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, name, shape, match):
    def change(tensors):
        ddod()(tensors)
        tensors[name] = torch.ones(shape)

    with pytest.raises(ConfigError, match=match):
        convert_mmdet(source("atss", tmp_path, change), str(tmp_path / "out"))
