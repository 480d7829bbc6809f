"""Boxes of sets of points."""

import math
from typing import Optional

import torch
from torch import Tensor

from .precision import at_least_float

TRANSFORMS = ("moment", "minmax", "partial_minmax")
_MOMENT_GRADIENT = 0.01
_CORNERS = 4  # points that a partial box is around


def boxes_of_points(points: Tensor, transform: str, moment: Optional[Tensor] = None) -> Tensor:
    """The box that n points stand for (RepPoints, arXiv 1904.11490, section 3.2).

    "moment": half as wide as the unbiased standard deviation of x times exp(m), around the mean;
    the height alike. The gradient of m is multiplied by 0.01, its value is not. "minmax": the
    smallest box around the points, "partial_minmax": around the first four. Equal points have a
    moment box without area, whose gradient is that of the mean alone.

    Args:
        points: (..., 2n) y, x of each point, any unit; n >= 2.
        transform: one of `TRANSFORMS`.
        moment: (2,) m of width and height; read by "moment" alone, None for zeros.

    Returns:
        Tensor: (..., 4) XYXY in the unit of `points`, float32 (float64 for float64 input).
    """
    xy = at_least_float(points).unflatten(-1, (-1, 2)).flip(-1)
    if transform == "moment":
        center = xy.mean(-2)
        away = xy - center[..., None, :]
        half = torch.linalg.vector_norm(away, dim=-2) / math.sqrt(away.shape[-2] - 1)
        if moment is not None:
            half = half * moment.detach().lerp(moment, _MOMENT_GRADIENT).exp()
        return torch.cat([center - half, center + half], -1)
    if transform == "partial_minmax":
        xy = xy[..., :_CORNERS, :]
    return torch.cat([xy.amin(-2), xy.amax(-2)], -1)
