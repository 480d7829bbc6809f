"""The FPN under d2kd's builders: a choice of the levels on top, and of the trunk's batch norm."""

import math
from typing import Any, List, Optional

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import check_choice

TOP_BLOCKS = ("none", "maxpool", "p6p7")
TOP_BLOCK_INPUTS = ("stage", "output")


def add_fpn_config(cfg: CfgNode) -> None:
    """Add the keys of `build_pyramid`, in place."""
    cfg.MODEL.BACKBONE.NORM_EVAL = False  # BN of the trunk keeps its statistics, trains its affine
    cfg.MODEL.BACKBONE.FROZEN_BN_EPS = 1e-5  # of a ResNet's FrozenBN; 0.0 in torchvision's first
    cfg.MODEL.FPN.TOP_BLOCK = "none"  # levels above the last: "none", "maxpool" (1) or "p6p7" (2)
    cfg.MODEL.FPN.TOP_BLOCK_INPUT = "stage"  # p6's: the last trunk "stage" or FPN "output"
    cfg.MODEL.FPN.TOP_BLOCK_RELU = True  # ReLU between p6 and p7
    cfg.MODEL.FPN.TOP_BLOCK_NORM = ""  # norm of p6 and p7, which MODEL.FPN.NORM does not reach


class TopBlockP6P7(LastLevelP6P7):
    """Detectron2's p6 and p7, two convolutions of stride 2, with a choice of what is between.

    Args:
        in_channels: channels of `in_feature`.
        out_channels: channels of p6 and p7.
        in_feature: a stage of the trunk, or a level of the FPN such as "p5".
        relu: apply p7's convolution to the ReLU of p6, otherwise to p6 itself.
        norm: norm behind both convolutions, which then have no bias; "" for none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, in_feature: str, relu: bool, norm: str = ""
    ) -> None:
        super().__init__(in_channels, out_channels, in_feature=in_feature)
        for name in ("p6", "p7") if norm else ():
            setattr(self, name, _normalized(getattr(self, name), norm))
        self.between = nn.ReLU() if relu else nn.Identity()

    def forward(self, feature: Tensor) -> List[Tensor]:
        """Compute the two levels.

        Args:
            feature: (N, in_channels, H, W).

        Returns:
            p6, (N, out_channels, H / 2, W / 2), and p7, with H / 4 and W / 4, rounded up.
        """
        p6 = self.p6(feature)
        return [p6, self.p7(self.between(p6))]


class Pyramid(FPN):
    """Detectron2's FPN whose trunk can keep its batch-norm statistics in training.

    Args:
        norm_eval: batch norm of `bottom_up` normalizes with its running statistics, and does not
            update them; its affine parameters train. This is mmdetection's `norm_eval`.
        fpn: see `detectron2.modeling.FPN`.
    """

    def __init__(self, *, norm_eval: bool = False, **fpn: Any) -> None:
        super().__init__(**fpn)
        self.norm_eval = norm_eval
        self.train()

    def train(self, mode: bool = True) -> "Pyramid":
        """Set the mode of all modules but the batch norm that `norm_eval` keeps as it is."""
        super().train(mode)
        if self.norm_eval:
            for module in self.bottom_up.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False  # its children, as to round, are not
        return self


def build_pyramid(cfg: CfgNode, bottom_up: Backbone) -> Pyramid:
    """Put the FPN of MODEL.FPN on a trunk.

    Args:
        cfg: config with the keys of `add_fpn_config`.
        bottom_up: a trunk that has every stage of MODEL.FPN.IN_FEATURES.

    Returns:
        A backbone with MODEL.FPN.OUT_CHANNELS channels on every level. Images have to be padded to
        the stride of its last stage only, whatever the levels above.
    """
    fpn = cfg.MODEL.FPN
    return Pyramid(
        bottom_up=bottom_up,
        in_features=list(fpn.IN_FEATURES),
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=_top_block(fpn, bottom_up),
        fuse_type=fpn.FUSE_TYPE,
        norm_eval=cfg.MODEL.BACKBONE.NORM_EVAL,
    )


def _top_block(fpn: CfgNode, bottom_up: Backbone) -> Optional[nn.Module]:
    """The block for the levels above the last one, from the node MODEL.FPN."""
    check_choice(fpn.TOP_BLOCK, TOP_BLOCKS, "MODEL.FPN.TOP_BLOCK")
    check_choice(fpn.TOP_BLOCK_INPUT, TOP_BLOCK_INPUTS, "MODEL.FPN.TOP_BLOCK_INPUT")
    if fpn.TOP_BLOCK == "none":
        return None
    stage = fpn.IN_FEATURES[-1]
    shape = bottom_up.output_shape()[stage]
    level = f"p{int(math.log2(shape.stride))}"
    if fpn.TOP_BLOCK == "maxpool":
        block = LastLevelMaxPool()
        block.in_feature = level
        return block
    output = fpn.TOP_BLOCK_INPUT == "output"
    channels, source = (fpn.OUT_CHANNELS, level) if output else (shape.channels, stage)
    options = fpn.TOP_BLOCK_RELU, fpn.TOP_BLOCK_NORM
    return TopBlockP6P7(channels, fpn.OUT_CHANNELS, source, *options)


def _normalized(conv: nn.Conv2d, norm: str) -> Conv2d:
    """The same weights without bias, under a norm."""
    geometry = conv.kernel_size, conv.stride, conv.padding
    channels = conv.out_channels
    made = Conv2d(conv.in_channels, channels, *geometry, bias=False, norm=get_norm(norm, channels))
    made.weight = conv.weight
    return made
