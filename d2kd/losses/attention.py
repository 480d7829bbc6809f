"""Attention masks and norms of feature maps (Structured KD, Zhang and Ma, ICLR 2021)."""

import math
from typing import Sequence, Tuple

import torch
from torch import Tensor

from .precision import at_least_float
from .reduce import l2_norm, total


def spatial_pool(x: Tensor, absolute: bool = False) -> Tensor:
    """Mean over channels, of absolute values if `absolute`: (N, C, H, W) -> (N, 1, H, W).

    At least float32, like every function of this module.
    """
    return _pool(x, (1,), absolute)


def channel_pool(x: Tensor, absolute: bool = False) -> Tensor:
    """Mean over cells, of absolute values if `absolute`: (N, C, H, W) -> (N, C, 1, 1)."""
    return _pool(x, (2, 3), absolute)


@torch.no_grad()
def spatial_mask(features: Sequence[Tensor], temperature: float, fuse: str = "avg") -> Tensor:
    """Attention over cells: H * W * softmax(mean over channels of |x| / T), constant.

    Args:
        features: maps (N, C, H, W) of one size, of any widths.
        temperature: T > 0, in units of the features, so that it depends on their scale.
        fuse: "avg", the mean of the maps' masks as in the released code, or "sum", the softmax of
            the summed means as the paper writes it.

    Returns:
        Tensor: (N, 1, H, W) >= 0, with mean 1 in each image.
    """
    return _mask([spatial_pool(x, absolute=True) for x in features], temperature, fuse)


@torch.no_grad()
def channel_mask(features: Sequence[Tensor], temperature: float, fuse: str = "avg") -> Tensor:
    """Attention over channels: C * softmax(mean over cells of |x| / T), constant.

    Args:
        features: maps (N, C, H, W) of one width.
        temperature, fuse: see `spatial_mask`.

    Returns:
        Tensor: (N, C, 1, 1) >= 0, with mean 1 in each image.
    """
    return _mask([channel_pool(x, absolute=True) for x in features], temperature, fuse)


def masked_distance(student: Tensor, teacher: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
    """sqrt(sum (t - s)^2 * product of masks), over all axes, the batch too.

    It grows with the root of the batch size. At distance 0 the gradient is 0, and otherwise its
    norm lies between the roots of the smallest and the largest mask value however small the
    distance is. Squares are summed in float32 or more: those of a P2 map overflow half precision.

    Args:
        student: any shape.
        teacher: the same shape; it may carry gradient.
        masks: constants >= 0 that broadcast to this shape.

    Returns:
        Tensor: scalar, float32 (float64 for float64 input).
    """
    difference = at_least_float(teacher) - at_least_float(student)
    for mask in masks:
        difference = difference * mask.sqrt()
    return l2_norm(difference)


def _pool(x: Tensor, axes: Tuple[int, ...], absolute: bool) -> Tensor:
    """A sum divided: the gradient of a mean is a map of its own, that of a sum is a view."""
    dtype, count = torch.promote_types(x.dtype, torch.float32), math.prod(x.shape[i] for i in axes)
    return (x.abs() if absolute else x).sum(axes, keepdim=True, dtype=dtype) / count


def _mask(pooled: Sequence[Tensor], temperature: float, fuse: str) -> Tensor:
    pooled = [total(pooled)] if fuse == "sum" else pooled
    masks = [(x / temperature).flatten(1).softmax(1) for x in pooled]
    mean = total(masks) * (masks[0].shape[1] / len(masks))
    return mean.view_as(pooled[0])
