"""3x3 convolutions whose kernel points are placed anywhere (deformable convolution, version 1).

Dai et al., ICCV 2017 (arXiv 1703.06211), with one group of offsets, stride 1 and no bias.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d


def kernel_grid(like: Tensor) -> Tensor:
    """Where the points of a plain 3x3 kernel are, y and x (9, 2), row by row."""
    axis = torch.arange(-1, 2, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(axis, axis)


def conv_at_points(x: Tensor, points: Tensor, weight: Tensor) -> Tensor:
    """Sum over nine points of the weights times what is there, bilinear and 0 outside the map.

    On a CPU by `grid_sample`, which takes a third of the time of torchvision's operator and keeps
    nine times the map for the backward pass. The operator is what GPUs run and what is exported.

    Args:
        x: (N, C, H, W).
        points: (N, 18, H, W), y and x of nine points in cells from each cell.
        weight: (C', C, 3, 3).

    Returns:
        Tensor: (N, C', H, W).
    """
    # the operator takes one type, also in mixed precision
    x, points = x.to(weight.dtype), points.to(weight.dtype)
    if x.device.type == "cpu" and not torch.compiler.is_exporting():
        return _by_sampling(x, points, weight)
    offsets = points - kernel_grid(points).view(-1, 1, 1)
    return deform_conv2d(x, offsets, weight, padding=(1, 1))


def _by_sampling(x: Tensor, points: Tensor, weight: Tensor) -> Tensor:
    n, _, height, width = x.shape
    dy, dx = points.unflatten(1, (-1, 2)).unbind(2)
    row, column = (torch.arange(k, dtype=x.dtype) for k in (height, width))
    place = torch.stack(
        [(2 * (dx + column) + 1) / width, (2 * (dy + row[:, None]) + 1) / height], -1
    )
    found = F.grid_sample(x, place.flatten(1, 2) - 1, align_corners=False)
    columns = found.unflatten(2, (-1, height)).flatten(3).flatten(1, 2)
    return (weight.flatten(1) @ columns).view(n, -1, height, width)
