"""timm trunks under Detectron2's FPN: names, widths, strides, levels and explained mistakes."""

import sys

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from d2kd.backbones.timm import TimmBackbone, build_timm_fpn_backbone
from d2kd.config import get_d2kd_cfg


def config(name="resnet18", features=("c3", "c4", "c5"), top_block="none"):
    cfg = get_d2kd_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.TOP_BLOCK = name, top_block
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = list(features), 16
    return cfg


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100"])
def test_shapes_equal_feature_info_and_the_forward(name):
    trunk = TimmBackbone(name, ["c2", "c3", "c4", "c5"]).eval()
    info = timm.create_model(name, features_only=True).feature_info
    by_stride = dict(zip(info.reduction(), info.channels(), strict=True))
    with torch.no_grad():
        features = trunk(torch.zeros(1, 3, 64, 96))
    assert list(features) == ["c2", "c3", "c4", "c5"]
    for level, (key, shape) in enumerate(trunk.output_shape().items(), 2):
        assert key == f"c{level}" and shape.stride == 2**level
        assert shape.channels == by_stride[2**level]
        size = (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert features[key].shape == size


def test_features_are_timms_own():
    trunk = TimmBackbone("resnet18", ["c2", "c4"]).eval()
    body = timm.create_model("resnet18", features_only=True).eval()
    assert not body.load_state_dict(trunk.body.state_dict(), strict=False).unexpected_keys
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, reference = trunk(image), body(image)
    torch.testing.assert_close(mine["c2"], reference[1])
    torch.testing.assert_close(mine["c4"], reference[3])


def test_stages_above_the_last_one_are_not_built():
    names = TimmBackbone("resnet18", ["c2", "c3", "c4"]).state_dict()
    assert any("layer3" in key for key in names) and not any("layer4" in key for key in names)
    assert any("layer4" in key for key in TimmBackbone("resnet18", ["c5"]).state_dict())


@pytest.mark.parametrize(("features", "top_block", "levels"), [
    (("c3", "c4", "c5"), "none", ["p3", "p4", "p5"]),
    (("c3", "c4", "c5"), "maxpool", ["p3", "p4", "p5", "p6"]),
    (("c3", "c4", "c5"), "p6p7", ["p3", "p4", "p5", "p6", "p7"]),
    (("c2", "c3", "c4"), "maxpool", ["p2", "p3", "p4", "p5"]),
    (("c2", "c3", "c4"), "p6p7", ["p2", "p3", "p4", "p5", "p6"]),
])  # fmt: skip
def test_top_blocks(features, top_block, levels):
    fpn = build_backbone(config(features=features, top_block=top_block))
    with torch.no_grad():
        features = fpn.eval()(torch.zeros(1, 3, 128, 128))
    assert sorted(features) == levels == sorted(fpn.output_shape())
    for key, shape in fpn.output_shape().items():
        assert shape == ShapeSpec(channels=16, stride=2 ** int(key[1]))
        assert features[key].shape == (1, 16, 128 // shape.stride, 128 // shape.stride)


def test_four_channel_images():
    fpn = build_timm_fpn_backbone(config(), ShapeSpec(channels=4))
    assert fpn.bottom_up.body.conv1.weight.shape[1] == 4


@pytest.mark.parametrize(("keys", "match"), [
    ({"name": "resnet81"}, "MODEL.TIMM.NAME is 'resnet81'.*resnet18"),
    ({"name": "zzzzqqqq"}, r"MODEL.TIMM.NAME is 'zzzzqqqq'.*timm.list_models\(\)"),
    ({"features": ("c3", "c6")}, r"MODEL.FPN.IN_FEATURES asks for \['c6'\].*'c5'"),
    ({"top_block": "p6"}, "MODEL.TIMM.TOP_BLOCK is 'p6'.*p6p7"),
])  # fmt: skip
def test_mistakes_are_explained(keys, match):
    with pytest.raises(ValueError, match=match):
        build_backbone(config(**keys))


def test_missing_timm_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm: pip install d2kd\[timm\]"):
        build_backbone(config())
