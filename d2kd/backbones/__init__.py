"""Backbones beyond Detectron2's own; importing this package registers them."""

from .timm import add_timm_config, build_timm_fpn_backbone

__all__ = ["add_timm_config", "build_timm_fpn_backbone"]
