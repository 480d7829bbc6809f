"""Quality focal loss: classification whose positive target is the quality of the box."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float


def quality_focal_loss(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """|y - sigmoid(z)|^beta * BCE(z, y) of every class (GFL, NeurIPS 2020, arXiv 2006.04388).

    The modulating factor carries gradient.

    Args:
        logits: (..., K) class logits z.
        targets: (..., K) quality y in [0, 1]; 0 for every class that is not the label.
        beta: exponent; 2 in the paper.

    Returns:
        Tensor: (..., K), >= 0, float32 (float64 for float64 input).
    """
    logits = at_least_float(logits)
    gap = (logits.sigmoid() - targets).abs()
    return _power(gap, beta) * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def joint_quality_focal_loss(
    logits: Tensor, quality: Tensor, targets: Tensor, beta: float = 2.0
) -> Tensor:
    """`quality_focal_loss` of the product J = sigmoid(z) * sigmoid(r) (GFLv2, CVPR 2021).

    log J is the sum of two log-sigmoids and 1 - J is held above 1e-7, so that neither saturates
    (ours; the released code takes logarithms of probabilities).

    Args:
        logits: (..., K) class logits z.
        quality: (..., 1) quality logit r.
        targets: (..., K) quality y in [0, 1].
        beta: exponent.

    Returns:
        Tensor: (..., K), >= 0, float32 (float64 for float64 input).
    """
    logits, quality = at_least_float(logits), at_least_float(quality)
    log_joint = F.logsigmoid(logits) + F.logsigmoid(quality)
    joint = log_joint.exp()
    cross_entropy = -targets * log_joint - (1 - targets) * torch.log1p(-joint.clamp(max=1 - 1e-7))
    return _power((joint - targets).abs(), beta) * cross_entropy


def _power(gap: Tensor, beta: float) -> Tensor:
    if beta == 2.0:
        return gap.square()
    return gap if beta == 1.0 else gap.clamp(min=torch.finfo(gap.dtype).tiny).pow(beta)
