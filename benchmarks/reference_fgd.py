"""FGD as its formulas are written down: masks box by box, maps times roots of all weights."""

from typing import Callable, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Sequence[float]


def masks(boxes: List[Tensor], stride: int, height: int, width: int) -> Tuple[Tensor, Tensor]:
    """Weights of the cells on objects and off them, (N, H, W) each."""
    foreground = torch.zeros(len(boxes), height, width, device=boxes[0].device)
    background = torch.ones_like(foreground)
    for image, found in enumerate(boxes):
        low, high = (found[:, :2] / stride).floor().int(), (found[:, 2:] / stride).ceil().int()
        area = 1.0 / (high - low + 1).prod(1)
        for (x1, y1), (x2, y2), weight in zip(low, high, area, strict=True):
            part = foreground[image, y1 : y2 + 1, x1 : x2 + 1]
            foreground[image, y1 : y2 + 1, x1 : x2 + 1] = torch.maximum(part, weight)
        background[image] = torch.where(foreground[image] > 0, 0.0, 1.0)
        if background[image].sum():
            background[image] /= background[image].sum()
    return foreground, background


def attention(x: Tensor, temperature: float) -> Tuple[Tensor, Tensor]:
    """Over cells (N, H, W) and over channels (N, C)."""
    n, c, h, w = x.shape
    values = x.abs()
    spatial = (values.mean(1) / temperature).view(n, -1)
    channel = values.mean((2, 3)) / temperature
    return (h * w * F.softmax(spatial, dim=1)).view(n, h, w), c * F.softmax(channel, dim=1)


def level(
    s: Tensor, t: Tensor, boxes: List[Tensor], stride: int, weights: Weights, temperature: float,
    context_s: Callable[[Tensor], Tensor], context_t: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """All terms of one level; contexts are (N, C)."""
    n, _, h, w = s.shape
    (spatial_t, channel_t), (spatial_s, channel_s) = (attention(x, temperature) for x in (t, s))
    channel, spatial = channel_t[..., None, None].sqrt(), spatial_t[:, None].sqrt()
    total = 0.0
    for weight, mask in zip(weights, masks(boxes, stride, h, w), strict=False):
        mask = mask[:, None].sqrt()
        a, b = (torch.mul(torch.mul(x * spatial, channel), mask) for x in (s, t))
        total = total + weight * F.mse_loss(a, b, reduction="sum") / n
    distance = (channel_s - channel_t).abs().sum() + (spatial_s - spatial_t).abs().sum()
    a, b = (x + f(x)[..., None, None] for x, f in ((s, context_s), (t, context_t)))
    relation = F.mse_loss(a, b, reduction="sum")
    return total + (weights[2] * distance + weights[3] * relation) / n
