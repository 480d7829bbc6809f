"""Losses and box distributions: pure functions of tensors."""

from .attention import (
    channel_mask,
    channel_pool,
    masked_distance,
    spatial_mask,
    spatial_pool,
)
from .box import box_iou_loss
from .distribution import distribution_focal_loss, integral
from .divergence import binary_distillation_loss, softened_kl
from .feature import align_channels, cosine_distance, instance_norm_loss, pearson_loss
from .focal import joint_quality_focal_loss, quality_focal_loss
from .reduce import mean_over_ranks
from .region import decoupled_kl, mask_divergence, relation_losses

__all__ = [
    "align_channels",
    "binary_distillation_loss",
    "box_iou_loss",
    "channel_mask",
    "channel_pool",
    "cosine_distance",
    "decoupled_kl",
    "distribution_focal_loss",
    "instance_norm_loss",
    "integral",
    "joint_quality_focal_loss",
    "masked_distance",
    "mask_divergence",
    "mean_over_ranks",
    "pearson_loss",
    "quality_focal_loss",
    "relation_losses",
    "softened_kl",
    "spatial_mask",
    "spatial_pool",
]
