"""Detectors that Detectron2 cannot build from yaml."""

from .fcos import FCOS, add_fcos_config

__all__ = ["FCOS", "add_fcos_config"]
