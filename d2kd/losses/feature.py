"""Losses on feature maps."""

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float
from .reduce import sum_over_ranks

_CELLS = (0, 2, 3)


def pearson_loss(
    student: Tensor, teacher: Tensor, eps: float = 1e-6, all_ranks: bool = False
) -> Tensor:
    """Half the mean squared difference of two maps standardized per channel (PKD, NeurIPS 2022).

    Each channel is standardized over N, H, W with its unbiased standard deviation, so that with n
    values a channel the loss is (n - 1) / n * (1 - mean Pearson correlation): 0 for maps equal up
    to a positive affine map of each channel, 1 for uncorrelated ones, up to 2. A channel with a
    single value (n = 1) has no deviation and counts as 0.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W), constant.
        eps: added to the standard deviation.
        all_ranks: take mean and deviation over the batches of all ranks, which makes the mean of
            the ranks' losses that of one process with the whole batch (ours; the released code
            standardizes each rank's batch on its own).

    Returns:
        Tensor: scalar, float32 (float64 for float64 input).
    """
    (student, teacher), _, deviations = _center(student, teacher.detach(), all_ranks)
    scales = (1 / (deviations + eps)).view(2, 1, -1, 1, 1)
    return (student * scales[0] - teacher * scales[1]).square().mean() / 2


def instance_norm_loss(student: Tensor, teacher: Tensor, eps: float = 1e-5) -> Tensor:
    """Half the mean squared difference of two maps standardized per image and channel (CanKD).

    With the biased variance of a channel's cells it is 0 for maps equal up to a positive affine map
    of each channel of each image, 1 for uncorrelated ones, up to 2. A channel without variance, and
    so every map of one cell, is standardized to 0.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W), constant.
        eps: added to the variance.

    Returns:
        Tensor: scalar, float32 (float64 for float64 input).
    """
    return F.mse_loss(instance_norm(student, eps), instance_norm(teacher.detach(), eps)) / 2


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) of each image and channel: (N, C, H, W), at least float32.

    A map of one cell, which torch refuses, becomes 0.
    """
    x = at_least_float(x)
    return F.instance_norm(x, eps=eps) if x[0, 0].numel() > 1 else x * 0


def cosine_distance(student: Tensor, teacher: Tensor, eps: float = 1e-8) -> Tensor:
    """1 - cosine of the angle between the channels of two maps, cell by cell.

    Args:
        student: (N, C, H, W). The gradient in a cell is -(t^ - cos s^) / ||s||, of unit vectors t^
            and s^: it shrinks as the student's vector grows.
        teacher: (N, C, H, W), constant.
        eps: least norm to divide by; a vector of zeros is at right angles to every other.

    Returns:
        Tensor: (N, H, W) in [0, 2], float32 (float64 for float64 input).
    """
    student, teacher = at_least_float(student), at_least_float(teacher.detach())
    norms = [torch.linalg.vector_norm(x, dim=1).clamp(min=eps) for x in (student, teacher)]
    return 1 - (student * teacher).sum(1) / (norms[0] * norms[1])


def align_channels(
    student: Tensor, teacher: Tensor, floor: float = 1e-3, all_ranks: bool = False
) -> Tensor:
    """Give each channel of `student` the mean and deviation of the same channel of `teacher`.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W), constant.
        floor: least deviation of a student's channel to divide by; a constant channel would
            amplify its gradient without bound (ours).
        all_ranks: see `pearson_loss`.

    Returns:
        Tensor: (N, C, H, W), float32 (float64 for float64 input), differentiable through the
        student's statistics.
    """
    (centered, _), means, deviations = _center(student, teacher.detach(), all_ranks)
    scale = deviations[1] / (deviations[0].clamp(min=floor) + 1e-6)
    return centered * scale.view(1, -1, 1, 1) + means[1].view(1, -1, 1, 1)


def _center(
    student: Tensor, teacher: Tensor, all_ranks: bool
) -> Tuple[Tuple[Tensor, Tensor], Tensor, Tensor]:
    """Both maps less their channels' means; means and unbiased deviations, each (2, C)."""
    student, teacher = at_least_float(student), at_least_float(teacher)
    reduce = sum_over_ranks if all_ranks else torch.clone
    count = student.new_full((), student[:, 0].numel())
    total = reduce(torch.cat([student.sum(_CELLS), teacher.sum(_CELLS), count[None]]))
    means = (total[:-1] / total[-1]).view(2, -1)
    student, teacher = (
        x - m.view(1, -1, 1, 1) for x, m in zip((student, teacher), means, strict=True)
    )
    squares = reduce(torch.cat([student.square().sum(_CELLS), teacher.square().sum(_CELLS)]))
    variances = (squares / (total[-1] - 1).clamp(min=1)).clamp(min=1e-12)
    return (student, teacher), means, variances.sqrt().view(2, -1)
