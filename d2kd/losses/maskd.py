"""Masks of receptive tokens on feature maps (MasKD, Huang et al., ICLR 2023).

T tokens E (T, C) give a map x (N, C, H, W) as many masks m_k = sigmoid(E_k x). Their weights p_k
are a softmax of what a linear layer makes of a 3x3 convolution's mean over cells. All in float32 or
more, outside of autocast.
"""

import torch
from torch import Tensor

from .precision import at_least_float, no_autocast

_EPS = 1e-12
_LEAST_AREA = 1e-6  # cells


def token_masks(x: Tensor, tokens: Tensor) -> Tensor:
    """What each token attends to: sigmoid(E x), (N, C, H, W) and (T, C) -> (N, T, H, W)."""
    with no_autocast(x):
        return torch.einsum("tc,nchw->nthw", tokens, at_least_float(x)).sigmoid()


def shifted_sums(x: Tensor) -> Tensor:
    """Sums over cells of a map that is shifted by u rows and v columns, zeros moving in.

    They are the map's sum less its last (u = -1) or first (u = 1) row, and likewise its columns.

    Args:
        x: (N, C, H, W).

    Returns:
        Tensor: (N, C, 3, 3) by u and v in -1, 0, 1.
    """
    x = at_least_float(x)
    rows = x.sum(3)
    rows = torch.stack([rows - x[..., -1], rows, rows - x[..., 0]], 3)
    sums = rows.sum(2)
    return torch.stack([sums - rows[:, :, -1], sums, sums - rows[:, :, 0]], 2)


def pooled_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Mean over cells of a 3x3 convolution with padding 1, without convolving.

    Args:
        x: (N, C, H, W).
        weight: (D, C, 3, 3).
        bias: (D).

    Returns:
        Tensor: (N, D).
    """
    with no_autocast(x):
        cells = x.shape[2] * x.shape[3]
        return torch.einsum("dcuv,ncuv->nd", weight, shifted_sums(x)) / cells + bias


def dice(masks: Tensor) -> Tensor:
    """How much masks overlap: 2 <m_k, m_l> / (|m_k|^2 + |m_l|^2), mean over images and k != l.

    Args:
        masks: (N, T, H, W) in [0, 1].

    Returns:
        Tensor: scalar in [0, 1], 1 for equal masks; 0 for a single one.
    """
    with no_autocast(masks):
        flat = at_least_float(masks).flatten(2)
        products = flat @ flat.transpose(1, 2)
    squares = products.diagonal(dim1=1, dim2=2) + _EPS
    overlap = 2 * products / (squares[:, :, None] + squares[:, None, :])
    count = overlap.shape[1]
    pairs = overlap.sum() - overlap.diagonal(dim1=1, dim2=2).sum()
    return pairs / (len(overlap) * max(count * (count - 1), 1))


def weighted_mask(masks: Tensor, weights: Tensor) -> Tensor:
    """sum_k p_k m_k: (N, T, H, W) and (N, T) -> (N, H, W)."""
    with no_autocast(masks):
        return torch.einsum("nt,nthw->nhw", at_least_float(weights), at_least_float(masks))


def cell_weights(masks: Tensor, weights: Tensor) -> Tensor:
    """R = sum_k p_k m_k^2 / sum over cells of m_k: what each cell's squared error counts.

    Masking both maps squares the mask, its area does not; so they are defined.

    Args:
        masks: (N, T, H, W) in [0, 1].
        weights: p, (N, T).

    Returns:
        Tensor: (N, H, W) >= 0. A mask that is nowhere open counts as one of 1e-6 cells.
    """
    masks = at_least_float(masks)
    area = masks.sum((2, 3)).clamp(min=_LEAST_AREA)
    return weighted_mask(masks.square(), weights / area)


def weighted_mse(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Sum over cells of R times the mean over channels of (s - t)^2, mean over images.

    Args:
        student, teacher: (N, C, H, W).
        weights: R, (N, H, W), constant.

    Returns:
        Tensor: scalar, float32 (float64 for float64 input).
    """
    difference = at_least_float(student) - at_least_float(teacher)
    return (weights * difference.square().mean(1)).sum() / len(student)
