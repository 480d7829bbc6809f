"""Backbones beyond Detectron2's own; importing this package registers them."""

from detectron2.config import CfgNode

from .deform import DeformConv2d
from .fpn import Pyramid, add_fpn_config, build_pyramid
from .resnet import build_resnet_pyramid_backbone
from .timm import TimmBackbone, add_timm_config, build_timm_fpn_backbone
from .timm_extractor import build_timm_extractor_backbone

__all__ = [
    "DeformConv2d",
    "Pyramid",
    "TimmBackbone",
    "add_backbone_config",
    "build_pyramid",
    "build_resnet_pyramid_backbone",
    "build_timm_extractor_backbone",
    "build_timm_fpn_backbone",
]


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the keys of d2kd's backbone builders to a stock config, in place."""
    add_fpn_config(cfg)
    add_timm_config(cfg)
