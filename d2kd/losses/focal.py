"""Quality focal loss: classification whose positive target is the quality of the box."""

from typing import Any, Tuple

import torch
from torch import Tensor

from .precision import at_least_float
from .stable import log_one_minus, softplus


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
    return _QualityFocal.apply(at_least_float(logits), targets, beta)


class _QualityFocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, beta: float) -> Tensor:
        p = logits.sigmoid()
        gap = p - targets
        entropy = softplus(logits).addcmul_(logits, targets, value=-1)
        loss, slope = _modulate(gap, gap.square(), entropy, p.addcmul_(p, p, value=-1), beta)
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
    return _JointFocal.apply(softplus(-logits) + softplus(-quality), targets, beta)


class _JointFocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, minus_log_joint: Tensor, targets: Tensor, beta: float) -> Tensor:
        joint = (-minus_log_joint).exp_()
        gap = joint - targets
        held = joint.clamp(max=1 - 1e-7)
        entropy = log_one_minus(held).neg_().lerp_(minus_log_joint, targets)
        square = gap.square().div_(held.neg_().add_(1))
        loss, slope = _modulate(gap, square, entropy, joint, beta)
        ctx.save_for_backward(slope)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * -grad, None, None


def _modulate(
    gap: Tensor, square: Tensor, entropy: Tensor, rate: Tensor, beta: float
) -> Tuple[Tensor, Tensor]:
    """|gap|^beta * entropy and its derivative, in place.

    `rate` is the derivative of the gap, and square / gap that of the entropy.
    """
    if beta == 2.0:
        factor = gap
    elif beta == 1.0:
        factor = gap.sign()
    else:
        floor = torch.finfo(gap.dtype).tiny
        factor = gap.abs().clamp_(min=floor).pow_(beta - 1).mul_(gap.sign())
    slope = square.addcmul_(rate, entropy, value=beta).mul_(factor)
    return entropy.mul_(gap).mul_(factor), slope
