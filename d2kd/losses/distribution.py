"""Box sides as distributions over bins 0, 1, ..., reg_max (GFL, NeurIPS 2020, arXiv 2006.04388)."""

import torch
from torch import Tensor

from .precision import at_least_float, no_autocast


def integral(logits: Tensor) -> Tensor:
    """Expected bin of each side: sum_k k * softmax(logits)_k.

    Args:
        logits: (..., 4 * (reg_max + 1)), channel side * (reg_max + 1) + bin, sides l, t, r, b.

    Returns:
        Tensor: (..., 4) distances in [0, reg_max], in bins, float32 (float64 for float64 input).
    """
    logits = at_least_float(logits).unflatten(-1, (4, -1))
    bins = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    with no_autocast(logits):  # half precision is off by up to 6 px at stride 128
        return (logits.softmax(-1) @ bins[:, None])[..., 0]  # OpenVINO fails on a vector


def distribution_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy to the two bins beside the target, weighted by nearness.

    Args:
        logits: (..., 4 * (reg_max + 1)) as for `integral`.
        targets: (..., 4) distances in bins, clamped to [0, reg_max - 0.1].

    Returns:
        Tensor: (..., 4) loss of each side, >= 0, float32 (float64 for float64 input).
    """
    log_p = at_least_float(logits).unflatten(-1, (4, -1)).log_softmax(-1)
    targets = targets.to(log_p.dtype).clamp(0, log_p.shape[-1] - 1 - 0.1)
    left = targets.long()
    fraction = targets - left
    pairs = log_p.gather(-1, torch.stack([left, left + 1], -1))
    return -(pairs[..., 0] * (1 - fraction) + pairs[..., 1] * fraction)
