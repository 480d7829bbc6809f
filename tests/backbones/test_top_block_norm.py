"""The norm of the levels above the FPN's last one."""

import pytest
import torch
from torch.nn.functional import conv2d, group_norm
from torch.testing import assert_close

from d2kd.config.validate import check_config
from d2kd.errors import ConfigError
from tests.backbones.test_pyramid import build_backbone, config


def test_group_norm_behind_both_convolutions():
    """Without bias; p7 takes p6 as it is, and the other levels have the FPN's own norm."""
    cfg = config(TOP_BLOCK="p6p7", TOP_BLOCK_RELU=False, TOP_BLOCK_NORM="GN", OUT_CHANNELS=64)
    fpn = build_backbone(cfg)
    image = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    block = fpn.top_block
    names = {n for n, _ in block.named_parameters()}
    assert names == {
        f"{p}.{x}" for p in ("p6", "p7") for x in ("weight", "norm.weight", "norm.bias")
    }
    with torch.no_grad():
        for conv in (block.p6, block.p7):
            conv.norm.weight.uniform_(0.5, 1.5)
        levels, stages = fpn.eval()(image), fpn.bottom_up(image)
        below = stages["res5"]
        for name, conv in (("p6", block.p6), ("p7", block.p7)):
            plain = conv2d(below, conv.weight, None, 2, 1)
            assert_close(levels[name], group_norm(plain, 32, conv.norm.weight, conv.norm.bias))
            below = levels[name]
    assert fpn.fpn_output3.norm is None


def test_widths_are_checked():
    cfg = config(TOP_BLOCK="p6p7", TOP_BLOCK_NORM="GN", OUT_CHANNELS=48)
    with pytest.raises(ConfigError, match="MODEL.FPN.TOP_BLOCK_NORM is GN.* 48"):
        check_config(cfg)
    cfg.MODEL.FPN.TOP_BLOCK_NORM = "GroupNorm"
    with pytest.raises(ConfigError, match="MODEL.FPN.TOP_BLOCK_NORM"):
        check_config(cfg)
