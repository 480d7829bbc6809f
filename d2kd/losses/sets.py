"""Losses of points that are assigned to boxes of a teacher's set (ours)."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .focal import joint_quality_focal_loss, quality_focal_loss
from .precision import at_least_float


def set_class_loss(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor,
    known: Optional[Tensor] = None,
    beta: float = 2.0,
    quality: Optional[Tensor] = None,
) -> Tensor:
    """sum_i w_i sum_k u_k QFL(z_ik, y_ik), whose value and gradient are 0 where sigmoid(z) = y.

    Args:
        logits: (..., K) class logits z.
        targets: (..., K) probabilities y in [0, 1], constant; 0 for background.
        weight: (...) w >= 0 of each point.
        known: (K,) or (..., K) bool u, classes that count; None for all.
        beta: exponent of the quality focal loss.
        quality: (..., 1) logits; then QFL is of the product of both probabilities.

    Returns:
        Tensor: scalar sum, >= 0, float32 (float64 for float64 input).
    """
    if quality is None:
        loss = quality_focal_loss(logits, targets, beta)
    else:
        loss = joint_quality_focal_loss(logits, quality, targets, beta)
    if known is not None:
        loss = loss * known
    return (loss.sum(-1) * weight).sum()


def region_targets(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Distributions over K classes and background, of what is known of boxes.

    The sum S of probabilities that do not exclude each other can exceed 1: (p / max(S, 1),
    max(0, 1 - S)). For those that do, S <= 1, this is (p, 1 - S).

    Args:
        probabilities: (P, K) in [0, 1], all 0 for background.
        labels: (P,) bool, boxes of which one class alone is known, which gets all.

    Returns:
        Tensor: (P, K + 1), rows of sum 1.
    """
    probabilities = at_least_float(probabilities)
    total = probabilities.sum(-1, keepdim=True)
    soft = torch.cat([probabilities / total.clamp(min=1), (1 - total).clamp(min=0)], -1)
    hard = F.pad((probabilities > 0).to(soft.dtype), (0, 1))
    return torch.where(labels[..., None], hard, soft)


def soft_cross_entropy(logits: Tensor, targets: Tensor, known: Optional[Tensor] = None) -> Tensor:
    """- sum_k y_k log softmax(z)_k over the known classes and background.

    Args:
        logits: (P, K + 1) with background last.
        targets: (P, K + 1), constant, 0 for unknown classes.
        known: (K,) or (P, K) bool, classes that stay in the softmax; None for all.

    Returns:
        Tensor: (P,), >= 0, float32 (float64 for float64 input).
    """
    logits = at_least_float(logits)
    if known is None:
        return -(targets * logits.log_softmax(-1)).sum(-1)
    out = ~F.pad(known, (0, 1), value=True)
    log_p = logits.masked_fill(out, -torch.inf).log_softmax(-1).masked_fill(out, 0)
    return -(targets * log_p).sum(-1)
