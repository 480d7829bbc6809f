"""Detectron2's ResNets under the FPN of `build_pyramid`, with or without deformable convolution."""

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone

from .deform import make_deformable
from .fpn import Pyramid, build_pyramid

STAGES = ("res2", "res3", "res4", "res5")


@BACKBONE_REGISTRY.register()
def build_resnet_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Pyramid:
    """Detectron2's ResNet, all of MODEL.RESNETS and MODEL.BACKBONE.FREEZE_AT, under an FPN.

    Parameters are named as in `build_retinanet_resnet_fpn_backbone`, so its checkpoints load where
    MODEL.FPN.TOP_BLOCK is "p6p7". Deformable convolution (MODEL.RESNETS.DEFORM_*) works without
    Detectron2's compiled operators; its offsets are "conv2.offset", Detectron2's "conv2_offset".

    Args:
        cfg: config with the keys of `add_backbone_config`.
        input_shape: channels of the input image.

    Returns:
        A backbone with MODEL.FPN.OUT_CHANNELS channels on every level.
    """
    _check(cfg)
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * len(STAGES)
    bottom_up = build_resnet_backbone(plain, input_shape)
    _deform(bottom_up, cfg.MODEL.RESNETS)
    for module in bottom_up.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = cfg.MODEL.BACKBONE.FROZEN_BN_EPS
    return build_pyramid(cfg, bottom_up)


def _check(cfg: CfgNode) -> None:
    """Explain what Detectron2 would stop at without a reason."""
    resnets, wanted = cfg.MODEL.RESNETS, cfg.MODEL.FPN.IN_FEATURES
    missing = [name for name in wanted if name not in resnets.OUT_FEATURES]
    if missing:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES asks for {missing}, which MODEL.RESNETS.OUT_FEATURES "
            f"{list(resnets.OUT_FEATURES)} does not name. Name the same stages in both."
        )
    if len(resnets.DEFORM_ON_PER_STAGE) != len(STAGES):
        raise ValueError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {list(resnets.DEFORM_ON_PER_STAGE)}. "
            f"Give one value for each of {', '.join(STAGES)}."
        )
    if any(resnets.DEFORM_ON_PER_STAGE) and resnets.DEPTH < 50:
        raise ValueError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE needs the 3x3 bottleneck convolutions of depth 50, "
            f"101 or 152, and MODEL.RESNETS.DEPTH is {resnets.DEPTH}. Set it to [False] * 4."
        )


def _deform(bottom_up: Backbone, resnets: CfgNode) -> None:
    """Make the 3x3 convolutions of the stages in DEFORM_ON_PER_STAGE deformable, in place."""
    for name, deform in zip(STAGES, resnets.DEFORM_ON_PER_STAGE, strict=True):
        if deform and name in bottom_up.stage_names:
            for block in getattr(bottom_up, name):
                block.conv2 = make_deformable(
                    block.conv2, resnets.DEFORM_MODULATED, resnets.DEFORM_NUM_GROUPS
                )
