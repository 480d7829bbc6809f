"""Distillation losses: pure functions of tensors."""

from .box import box_iou_loss
from .divergence import binary_distillation_loss
from .feature import pearson_loss
from .reduce import mean_over_ranks

__all__ = ["binary_distillation_loss", "box_iou_loss", "mean_over_ranks", "pearson_loss"]
