"""The FPN's levels on top and its batch norm, on Detectron2's ResNets and on timm's trunks."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch.nn.functional import conv2d

from d2kd.config.defaults import get_d2kd_cfg

TRUNKS = {"build_resnet_pyramid_backbone": "res", "build_timm_fpn_backbone": "c"}


def config(name="build_resnet_pyramid_backbone", stages=(3, 4, 5), **fpn):
    """An 18-layer trunk; the keys of Detectron2's ResNet are those of its BN-trained models."""
    cfg = get_d2kd_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = name, 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = [f"res{i}" for i in stages]
    cfg.MODEL.FPN.IN_FEATURES = [f"{TRUNKS[name]}{i}" for i in stages]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.FPN.update(fpn)
    return cfg


@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize("source", ["stage", "output"])
@pytest.mark.parametrize(("stages", "top_block", "levels"), [
    ((3, 4, 5), "none", ["p3", "p4", "p5"]),
    ((3, 4, 5), "maxpool", ["p3", "p4", "p5", "p6"]),
    ((3, 4, 5), "p6p7", ["p3", "p4", "p5", "p6", "p7"]),
    ((2, 3, 4), "maxpool", ["p2", "p3", "p4", "p5"]),
    ((2, 3, 4), "p6p7", ["p2", "p3", "p4", "p5", "p6"]),
])  # fmt: skip
def test_levels(name, source, stages, top_block, levels):
    fpn = build_backbone(config(name, stages, TOP_BLOCK=top_block, TOP_BLOCK_INPUT=source))
    with torch.no_grad():
        features = fpn.eval()(torch.zeros(1, 3, 128, 128))
    assert list(features) == levels == list(fpn.output_shape())
    assert fpn.size_divisibility == 2 ** stages[-1]
    for key, shape in fpn.output_shape().items():
        assert shape == ShapeSpec(channels=16, stride=2 ** int(key[1]))
        assert features[key].shape == (1, 16, 128 // shape.stride, 128 // shape.stride)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("source", ["stage", "output"])
def test_p6_and_p7(source, relu):
    fpn = build_backbone(config(TOP_BLOCK="p6p7", TOP_BLOCK_INPUT=source, TOP_BLOCK_RELU=relu))
    image = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        levels, stages = fpn.eval()(image), fpn.bottom_up(image)
        p6, p7 = fpn.top_block.p6, fpn.top_block.p7
        start = stages["res5"] if source == "stage" else levels["p5"]
        torch.testing.assert_close(levels["p6"], conv2d(start, p6.weight, p6.bias, 2, 1))
        between = levels["p6"].relu() if relu else levels["p6"]
        torch.testing.assert_close(levels["p7"], conv2d(between, p7.weight, p7.bias, 2, 1))
    assert [tuple(levels[key].shape[2:]) for key in ("p5", "p6", "p7")] == [(3, 5), (2, 3), (1, 2)]


@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize("norm_eval", [True, False])
def test_norm_eval(name, norm_eval):
    """Statistics stay and affine parameters train; the FPN's own batch norm is not concerned."""
    cfg = config(name, NORM="BN")
    cfg.MODEL.BACKBONE.NORM_EVAL = norm_eval
    fpn = build_backbone(cfg)
    for _ in range(2):
        before = {k: v.clone() for k, v in fpn.state_dict().items() if "running" in k}
        sum(x.square().sum() for x in fpn(torch.rand(2, 3, 64, 64)).values()).backward()
        kept = {k for k, v in fpn.state_dict().items() if k in before and torch.equal(v, before[k])}
        assert kept == {k for k in before if norm_eval and k.startswith("bottom_up.")}
        assert all(p.requires_grad and p.grad is not None for p in fpn.parameters())
        fpn.eval().train()
    assert not any(module.training for module in fpn.eval().modules())


@pytest.mark.parametrize(("key", "value", "match"), [
    ("TOP_BLOCK", "p6", "MODEL.FPN.TOP_BLOCK: unknown 'p6'. Did you mean 'p6p7'"),
    ("TOP_BLOCK_INPUT", "p5", "MODEL.FPN.TOP_BLOCK_INPUT: unknown 'p5'.*output, stage"),
])  # fmt: skip
def test_mistakes_are_explained(key, value, match):
    with pytest.raises(ValueError, match=match):
        build_backbone(config(**{key: value}))
