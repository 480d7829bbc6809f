"""Detectron2's ResNets under d2kd's FPN: its names, weights and freezing, and deformable stages."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone

from d2kd.backbones import DeformConv2d
from d2kd.config.defaults import get_d2kd_cfg


def config(name="build_resnet_pyramid_backbone", depth=50, **resnets):
    """Half the width of a ResNet-50, so that the test is quick."""
    cfg = get_d2kd_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = depth, 64
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 16
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.update(resnets)
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = ["res3", "res4", "res5"], 16
    cfg.MODEL.FPN.TOP_BLOCK = "p6p7"
    return cfg


@pytest.mark.parametrize("depth", [18, 50])
def test_it_is_detectron2s_retinanet_backbone(depth):
    """Same names, and with the same weights the same features, bit by bit."""
    mine = build_backbone(config(depth=depth)).eval()
    stock = build_backbone(config("build_retinanet_resnet_fpn_backbone", depth)).eval()
    assert list(mine.state_dict()) == list(stock.state_dict())
    assert {"top_block.p6.bias", "fpn_lateral3.bias", "fpn_output5.weight"} < set(mine.state_dict())
    mine.load_state_dict(stock.state_dict())
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for key, level in stock(image).items():
            assert torch.equal(mine(image)[key], level)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_stages(modulated):
    cfg = config(
        NORM="BN",
        DEFORM_ON_PER_STAGE=[True, True, False, True],
        DEFORM_MODULATED=modulated,
        DEFORM_NUM_GROUPS=2,
    )
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    fpn = build_backbone(cfg)
    assert cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE == [True, True, False, True]
    convs = {k: m for k, m in fpn.bottom_up.named_modules() if k.endswith("conv2")}
    deformed = {k for k, m in convs.items() if isinstance(m, DeformConv2d)}
    assert deformed == {k for k in convs if not k.startswith("res4")}
    names = {k.partition("res5.0.")[2] for k in fpn.state_dict() if "res5.0.conv2" in k}
    parts = ("weight", "norm.weight", "norm.running_var", "offset.weight", "offset.bias")
    assert {f"conv2.{part}" for part in parts} < names
    assert fpn.bottom_up.res5[0].conv2.offset.out_channels == (54 if modulated else 36)
    sum(x.square().sum() for x in fpn(torch.rand(1, 3, 64, 96)).values()).backward()
    for key, parameter in fpn.named_parameters():
        assert parameter.requires_grad != ("stem" in key or "res2" in key), key
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert fpn.bottom_up.res5[0].conv2.offset.weight.grad.abs().sum() > 0


def test_a_deformable_stage_starts_as_the_plain_one():
    plain = build_backbone(config()).eval()
    deformed = build_backbone(config(DEFORM_ON_PER_STAGE=[False, True, True, True])).eval()
    left = deformed.load_state_dict(plain.state_dict(), strict=False)
    assert left.unexpected_keys == [] and all("conv2.offset." in k for k in left.missing_keys)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # 13 convolutions, each with rounded places of its samples
        torch.testing.assert_close(deformed(image), plain(image), atol=1e-4, rtol=1e-3)


def test_frozen_stages_have_detectron2s_frozen_norm():
    cfg = config(NORM="BN", DEFORM_ON_PER_STAGE=[True, False, False, False])
    conv = build_backbone(cfg).bottom_up.res2[0].conv2
    assert isinstance(conv.norm, FrozenBatchNorm2d) and isinstance(conv, DeformConv2d)


@pytest.mark.parametrize(("keys", "match"), [
    ({"depth": 18, "DEFORM_ON_PER_STAGE": [False, False, True, True]},
     "MODEL.RESNETS.DEFORM_ON_PER_STAGE needs .*MODEL.RESNETS.DEPTH is 18"),
    ({"DEFORM_ON_PER_STAGE": [True]}, r"DEFORM_ON_PER_STAGE is \[True\]. .* res2, res3, res4"),
    ({"OUT_FEATURES": ["res4", "res5"]},
     r"MODEL.FPN.IN_FEATURES asks for \['res3'\], .*OUT_FEATURES \['res4', 'res5'\]"),
])  # fmt: skip
def test_mistakes_are_explained(keys, match):
    with pytest.raises(ValueError, match=match):
        build_backbone(config(**keys))
