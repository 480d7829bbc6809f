"""Losses and box distributions: pure functions of tensors."""

from .box import box_iou_loss
from .distribution import distribution_focal_loss, integral
from .divergence import binary_distillation_loss, softened_kl
from .feature import align_channels, pearson_loss
from .focal import joint_quality_focal_loss, quality_focal_loss
from .reduce import mean_over_ranks

__all__ = [
    "align_channels",
    "binary_distillation_loss",
    "box_iou_loss",
    "distribution_focal_loss",
    "integral",
    "joint_quality_focal_loss",
    "mean_over_ranks",
    "pearson_loss",
    "quality_focal_loss",
    "softened_kl",
]
