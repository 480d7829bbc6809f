"""Checkpoints of other toolboxes as d2kd's detectors."""

from .mmdet import convert_mmdet

__all__ = ["convert_mmdet"]
