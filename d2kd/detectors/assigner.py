"""Adaptive training sample selection: which anchors are positive for which box.

Zhang et al., CVPR 2020 (arXiv 1912.02424), section 4.
"""

from typing import List, Tuple

import torch
from torch import Tensor

from ..losses.box import centers, intersection_and_union, side_distances

_ELEMENTS = 2**21  # distances in memory at a time


@torch.no_grad()
def atss_assign(anchors: List[Tensor], valid: Tensor, boxes: List[Tensor], topk: int = 9) -> Tensor:
    """Match the anchors of a batch to its boxes, all images and boxes at once.

    For each box the `topk` anchors of each level whose centers are nearest are its candidates. A
    candidate is positive if its IoU reaches mean + unbiased standard deviation of the candidates'
    IoUs and its center lies more than 0.01 px inside the box. An anchor that is positive for
    several boxes goes to the one of largest IoU, among equals to the first. Equal distances at the
    edge of the top k are resolved as `torch.topk` does.

    Args:
        anchors: per level (R_l, 4) XYXY px; R = sum R_l.
        valid: (N, R) bool; False in batch padding, where nothing is a candidate.
        boxes: per image (G_i, 4) XYXY px; G = sum G_i, any of them 0.
        topk: candidates per level and box.

    Returns:
        Tensor: (N, R) long, the matched row of `torch.cat(boxes)`, G for background.
    """
    images, gt, flat = image_of_box(boxes), torch.cat(boxes), torch.cat(anchors)
    candidates, near = nearest_anchors(anchors, valid, gt, images, topk)
    iou = paired_iou(flat[candidates], gt[:, None])
    inside = side_distances(flat[candidates], gt[:, None]).amin(-1) > 0.01
    positive = near & (iou >= mean_plus_deviation(iou, near)) & inside
    return give_to_best(images[:, None] * len(flat) + candidates, positive, iou, valid.shape)


@torch.no_grad()
def atss_thresholds(
    anchors: List[Tensor], valid: Tensor, boxes: List[Tensor], topk: int = 9
) -> Tensor:
    """(G,) IoU that a candidate of each box must reach; arguments as for `atss_assign`."""
    gt = torch.cat(boxes)
    candidates, near = nearest_anchors(anchors, valid, gt, image_of_box(boxes), topk)
    iou = paired_iou(torch.cat(anchors)[candidates], gt[:, None])
    return mean_plus_deviation(iou, near)[:, 0]


def image_of_box(boxes: List[Tensor]) -> Tensor:
    """(G,) index of the image of each row of `torch.cat(boxes)`."""
    rows = (b.new_full((len(b),), i, dtype=torch.int64) for i, b in enumerate(boxes))
    return torch.cat(list(rows))


def nearest_anchors(
    anchors: List[Tensor], valid: Tensor, gt: Tensor, images: Tensor, topk: int
) -> Tuple[Tensor, Tensor]:
    """Indices (G, C) of the nearest anchors of every level, and whether each is a valid one."""
    middles = centers(gt)
    indices, near, start = [], [], 0
    for level in anchors:
        outside = ~valid[:, start : start + len(level)]
        rows = max(_ELEMENTS // len(level), 1)
        chunks = zip(middles.split(rows), images.split(rows), strict=True)
        found = [_nearest(level, outside[i], c, topk) for c, i in chunks]
        values, index = (torch.cat(x) for x in zip(*found, strict=True))
        indices.append(index + start)
        near.append(values.isfinite())
        start += len(level)
    return torch.cat(indices, 1), torch.cat(near, 1)


def _nearest(level: Tensor, outside: Tensor, middles: Tensor, topk: int) -> Tuple[Tensor, Tensor]:
    """Squared distances, inf outside, and indices, (g, k) each, of the nearest anchors."""
    x, y = centers(level).unbind(1)
    distance = (middles[:, :1] - x).square_().add_((middles[:, 1:] - y).square_())
    distance.masked_fill_(outside, torch.inf)
    values, index = distance.topk(min(topk, len(level)), largest=False)
    return values, index


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (...) of broadcast XYXY boxes (..., 4)."""
    inner, union = intersection_and_union(a, b)
    return inner / union


def mean_plus_deviation(iou: Tensor, near: Tensor) -> Tensor:
    """(G, 1) mean + unbiased standard deviation of the IoU (G, C), or quality, where `near`."""
    count = near.sum(1, keepdim=True)
    mean = (iou * near).sum(1, keepdim=True) / count.clamp(min=1)
    squares = ((iou - mean).square() * near).sum(1, keepdim=True)
    return mean + (squares / (count - 1).clamp(min=1)).sqrt()


def give_to_best(cells: Tensor, positive: Tensor, iou: Tensor, shape: torch.Size) -> Tensor:
    """Give each cell (index into N * R) the box of largest `iou`; G where there is none."""
    cells, total = cells.flatten(), len(positive)
    quality = iou.masked_fill(~positive, -torch.inf).flatten()
    best = quality.new_full((shape.numel(),), -torch.inf).scatter_reduce(0, cells, quality, "amax")
    wins = positive.flatten() & (quality == best[cells])
    rows = torch.arange(total, device=cells.device).repeat_interleave(positive.shape[1])
    rows = rows.masked_fill(~wins, total)
    match = rows.new_full((shape.numel(),), total).scatter_reduce(0, cells, rows, "amin")
    return match.view(shape)
