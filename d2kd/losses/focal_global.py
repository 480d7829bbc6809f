"""Losses of FGD: Focal and Global Knowledge Distillation for Detectors.

Yang et al., CVPR 2022 (arXiv 2111.11837). N images, C channels, H x W cells of one FPN level. All
in float32 or more, outside autocast.
"""

from typing import Any, Tuple

import torch
from torch import Tensor

from .precision import at_least_float, no_autocast
from .reduce import total


def attention(x: Tensor, temperature: float) -> Tuple[Tensor, Tensor]:
    """Attention over cells and over channels, each of mean 1, differentiable.

    H * W * softmax over cells of the channels' mean |x| / T, and C * softmax over channels of the
    cells' mean |x| / T.

    Args:
        x: (N, C, H, W).
        temperature: T > 0, in units of the features, so that it depends on their scale.

    Returns:
        Tuple: (N, H * W) and (N, C), >= 0.
    """
    x = at_least_float(x).flatten(2).abs()
    channels, cells = x.shape[1:]
    spatial = (x.sum(1) / (channels * temperature)).softmax(1) * cells
    channel = (x.sum(2) / (cells * temperature)).softmax(1) * channels
    return spatial, channel


def attention_distance(student: Tuple[Tensor, Tensor], teacher: Tuple[Tensor, Tensor]) -> Tensor:
    """Sum of absolute differences of two results of `attention`, a mean over images."""
    pairs = zip(student, teacher, strict=True)
    return total((s - t).abs().sum() for s, t in pairs) / len(student[0])


def guided_error(difference: Tensor, spatial: Tensor, channel: Tensor) -> Tensor:
    """Squared difference of two maps, times a teacher's attention; not differentiable twice.

    Weights of cells are applied to the result, so that no copy of the maps is made for them.

    Args:
        difference: (N, C, H, W).
        spatial, channel: (N, H * W) and (N, C), constant, see `attention`.

    Returns:
        Tensor: (N, H, W), a sum over channels.
    """
    x = at_least_float(difference).flatten(2)
    with no_autocast(x):
        return _GuidedError.apply(x, spatial, channel).unflatten(1, difference.shape[2:])


class _GuidedError(torch.autograd.Function):
    """One map is kept for the backward pass, the difference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spatial: Tensor, channel: Tensor) -> Tensor:
        ctx.save_for_backward(x, spatial, channel)
        return (channel[:, None] @ x.square())[:, 0] * spatial

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        x, spatial, channel = ctx.saved_tensors
        weight = channel[..., None] * (2 * grad * spatial)[:, None]
        return weight.mul_(x), None, None


def relation_distance(difference: Tensor, shift: Tensor) -> Tensor:
    """Sum of (difference + shift)^2, a mean over images; not differentiable twice.

    As the squares of what is left of the difference without its mean over cells, plus H * W times
    those of this mean plus the shift: nothing is lost to rounding where the shift makes up for the
    mean, which is what it learns to do.

    Args:
        difference: (N, C, H, W).
        shift: (N, C).

    Returns:
        Tensor: scalar.
    """
    return _Relation.apply(at_least_float(difference).flatten(2), shift) / len(shift)


class _Relation(torch.autograd.Function):
    """One map is kept for the backward pass, the difference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor) -> Tensor:
        mean = x.sum(2) / x.shape[2]
        ctx.save_for_backward(x, mean, shift)
        squares = (x - mean[..., None]).square_().sum()
        return squares + x.shape[2] * (mean + shift).square().sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, Tensor]:
        x, mean, shift = ctx.saved_tensors
        twice = 2 * grad
        return (x + shift[..., None]).mul_(twice), (mean + shift) * (x.shape[2] * twice)
