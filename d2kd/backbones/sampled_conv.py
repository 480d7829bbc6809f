"""Deformable convolution for CPUs, where torchvision's operator is slow."""

from typing import Callable, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from ..losses.precision import no_autocast

Pair = Tuple[int, int]


def deform_conv_for(x: Tensor) -> Callable[..., Tensor]:
    """The `deform_conv2d` of torchvision, or what computes the same on a CPU.

    What is exported is the operator, ONNX's DeformConv.
    """
    sampled = x.device.type == "cpu" and not torch.compiler.is_exporting()
    return sampled_conv2d if sampled else deform_conv2d


def sampled_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Optional[Tensor] = None,
) -> Tensor:
    """Samples the input at all kernel points by `grid_sample`, then multiplies matrices.

    torchvision's backward pass on a CPU takes five times as long as this one's. The samples are
    kept for it: as many numbers as the input has, times the kernel's points.

    Args:
        x, offset, weight, bias, stride, padding, dilation, mask: as of torchvision's
            `deform_conv2d`; groups follow from the shapes.

    Returns:
        Tensor: (N, out_channels, H', W').
    """
    (images, channels), (out, per_group, *kernel) = x.shape[:2], weight.shape
    points, (height, width) = kernel[0] * kernel[1], offset.shape[-2:]
    parts, groups = offset.shape[1] // (2 * points), channels // per_group
    moves = offset.reshape(images * parts, points, 2, height, width)
    at = _kernel_points(moves, (kernel[0], kernel[1]), stride, padding, dilation)
    sides = zip(at.unbind(2), x.shape[-2:], strict=True)
    down, right = ((place + 0.5) * (2 / side) - 1 for place, side in sides)
    grid = torch.stack([right, down], -1).flatten(1, 2)
    split = x.reshape(images * parts, channels // parts, *x.shape[-2:])
    with no_autocast(x):
        columns = F.grid_sample(split, grid, align_corners=False).unflatten(2, (points, height))
        if mask is not None:
            columns = columns * mask.reshape(images * parts, 1, points, height, width)
        columns = columns.reshape(images, groups, per_group * points, height * width)
        found = weight.reshape(groups, out // groups, per_group * points) @ columns
    found = found.reshape(images, out, height, width)
    return found if bias is None else found + bias[:, None, None]


def _kernel_points(
    moves: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Where the kernel's points are, (M, points, 2, H, W) as (y, x) in px, with `moves` added."""
    axes = []
    for axis, size in enumerate(moves.shape[-2:]):
        start = torch.arange(size, device=moves.device) * stride[axis] - padding[axis]
        steps = torch.arange(kernel[axis], device=moves.device) * dilation[axis]
        axes.append(start + steps[:, None])
    rows = axes[0][:, None, :, None].expand(*kernel, *moves.shape[-2:])
    columns = axes[1][None, :, None, :].expand(*kernel, *moves.shape[-2:])
    return torch.stack([rows, columns], 2).flatten(0, 1) + moves
