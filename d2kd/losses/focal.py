"""Focal loss of labels, and quality focal loss, whose target is the quality of the box."""

from typing import Any, Tuple

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from .precision import at_least_float
from .stable import log1p, softplus


def class_focal_loss(
    logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of each location, summed over classes (ICCV 2017, arXiv 1708.02002).

    Args:
        logits: (..., K) class logits.
        labels: (...) long, K for background; -1 weighs nothing.
        alpha: weight of the positive class, 1 - alpha of the others.
        gamma: exponent of the modulating factor.

    Returns:
        Tensor: (...), >= 0, float32 (float64 for float64 input).
    """
    logits = at_least_float(logits)
    classes = torch.arange(logits.shape[-1], device=labels.device)
    target = (labels[..., None] == classes).to(logits.dtype)
    loss = sigmoid_focal_loss(logits, target, alpha, gamma)
    return loss.sum(-1) * (labels >= 0)


def quality_focal_loss(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """|y - sigmoid(z)|^beta * BCE(z, y) of every class (GFL, NeurIPS 2020, arXiv 2006.04388).

    The modulating factor carries gradient. Value and gradient are computed together, and one
    tensor is kept for the backward pass; not differentiable twice.

    Args:
        logits: (..., K) class logits z.
        targets: (..., K) quality y in [0, 1], constant; 0 for every class that is not the label.
        beta: exponent; 2 in the paper.

    Returns:
        Tensor: (..., K), >= 0, float32 (float64 for float64 input).
    """
    logits = at_least_float(logits)
    return _QualityFocal.apply(logits, targets.to(logits.dtype), beta)


class _QualityFocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, beta: float) -> Tensor:
        p = logits.sigmoid()
        gap = p - targets
        entropy = softplus(logits).addcmul_(logits, targets, value=-1)
        loss, slope = _modulate(gap, entropy, p.addcmul_(p, p, value=-1), gap, beta)
        ctx.save_for_backward(slope)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad, None, None


def joint_quality_focal_loss(
    logits: Tensor, quality: Tensor, targets: Tensor, beta: float = 2.0
) -> Tensor:
    """`quality_focal_loss` of the product J = sigmoid(z) * sigmoid(r) (GFLv2, CVPR 2021).

    log J is the sum of two log-sigmoids and 1 - J is held above 1e-7, so that neither saturates
    (ours; the released code takes logarithms of probabilities).

    Args:
        logits: (..., K) class logits z.
        quality: (..., 1) quality logit r.
        targets: (..., K) quality y in [0, 1], constant.
        beta: exponent.

    Returns:
        Tensor: (..., K), >= 0, float32 (float64 for float64 input).
    """
    logits, quality = at_least_float(logits), at_least_float(quality)
    return _JointFocal.apply(logits, quality, targets.to(logits.dtype), beta)


class _JointFocal(torch.autograd.Function):
    """Slopes are derivatives by log J."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, quality: Tensor, targets: Tensor, beta: float) -> Tensor:
        log_joint = softplus(-logits).add_(softplus(-quality)).neg_()
        joint = log_joint.exp()
        gap = joint - targets
        limit = 1 - 1e-7
        rest = joint.clamp(max=limit).neg_()
        entropy = log1p(rest).lerp_(log_joint, targets).neg_()
        entropy_slope = torch.div(gap, rest.add_(1), out=log_joint)
        entropy_slope = torch.where(joint >= limit, -targets, entropy_slope)
        loss, slope = _modulate(gap, entropy, joint, entropy_slope, beta)
        ctx.save_for_backward(slope, logits, quality)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, Tensor, None, None]:
        slope, logits, quality = ctx.saved_tensors
        slope = slope * grad
        total = slope.sum(-1, keepdim=True)
        return slope.mul_((-logits).sigmoid_()), total.mul_((-quality).sigmoid_()), None, None


def _modulate(
    gap: Tensor, entropy: Tensor, gap_slope: Tensor, entropy_slope: Tensor, beta: float
) -> Tuple[Tensor, Tensor]:
    """|gap|^beta * entropy and its derivative, in place of `entropy` and `gap_slope`."""
    if beta == 2.0:
        factor = gap
    elif beta == 1.0:
        factor = gap.sign()
    else:
        floor = torch.finfo(gap.dtype).tiny
        factor = gap.abs().clamp_(min=floor).pow_(beta - 1).mul_(gap.sign())
    slope = gap_slope.mul_(entropy).mul_(beta).addcmul_(gap, entropy_slope).mul_(factor)
    return entropy.mul_(gap).mul_(factor), slope
