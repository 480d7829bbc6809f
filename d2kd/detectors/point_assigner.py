"""RepPoints' two assignments: boxes to the nearest point, then by overlap of the first boxes.

Yang et al., ICCV 2019 (arXiv 1904.11490), section 3.3, as mmdetection's point and IoU assigners.
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor

from ..losses.box import centers
from .assigner import give_to_best, image_of_box, nearest_anchors, paired_iou

LOW_QUALITY = ("overlapping", "official", "none")
_ELEMENTS = 2**21  # overlaps in memory at a time


@torch.no_grad()
def nearest_point_assign(
    anchors: List[Tensor], valid: Tensor, boxes: List[Tensor], strides: List[int], scale: float
) -> Tensor:
    """Match every box to one point, the nearest of the level that its size belongs to.

    The level is that of stride 2^k, k = trunc((log2(w / scale) + log2(h / scale)) / 2), or the
    nearest there is. A point that several boxes want goes to the one whose center is nearest in
    units of its sides, among equals to the first; the others get none.

    Args:
        anchors: per level (R_l, 4) XYXY px around the points, a grid; R = sum R_l.
        valid: (N, R) bool; False in batch padding.
        boxes: per image (G_i, 4) XYXY px; G = sum G_i, any of them 0.
        strides: of the levels, px: powers of 2, each twice the one before.
        scale: side of a box in strides of its level.

    Returns:
        Tensor: (N, R) long, the matched row of `torch.cat(boxes)`, G for background.
    """
    images, gt, points = image_of_box(boxes), torch.cat(boxes), torch.cat(anchors)
    candidates, near = nearest_anchors(anchors, valid, gt, images, 1)
    sides = (gt[:, 2:] - gt[:, :2]).clamp(min=1e-6)
    power = ((sides / scale).log2().sum(1) / 2).long() - int(math.log2(strides[0]))
    level = power.clamp(0, len(strides) - 1)[:, None]
    chosen = candidates.gather(1, level)
    away = centers(points[chosen[:, 0]]) - centers(gt)
    nearness = -(away / sides).norm(dim=1, keepdim=True)
    cells = images[:, None] * len(points) + chosen
    return give_to_best(cells, near.gather(1, level), nearness, valid.shape)


@torch.no_grad()
def overlap_assign(
    predicted: Tensor,
    valid: Tensor,
    boxes: List[Tensor],
    thresholds: Tuple[float, float] = (0.4, 0.5),
    low_quality: str = "overlapping",
) -> Tensor:
    """Match cells to boxes by the IoU of the boxes that they predict, all images at once.

    A cell belongs to its box of largest IoU if that reaches the second threshold, and to the
    background below the first. Then every box takes all cells whose IoU with it is the largest that
    it has anywhere, the last box if there are several ("low quality").

    Args:
        predicted: (N, R, 4) XYXY px.
        valid: (N, R) bool; False in batch padding, which takes no part.
        boxes: per image (G_i, 4) XYXY px; G = sum G_i, any of them 0.
        thresholds: IoU in [0, 1], rising.
        low_quality: "overlapping": only boxes that some cell overlaps take cells (ours);
            "official": a box that none overlaps takes every cell, as its largest IoU, 0, is
            everywhere; "none": the step is left out.

    Returns:
        Tensor: (N, R) long, the matched row of `torch.cat(boxes)`, G for background, -1 between
        the thresholds.
    """
    gt, first_row = _stacked(boxes)
    best = predicted.new_full(valid.shape, -1.0)
    nearest, taken = (torch.full_like(best, -1, dtype=torch.int64) for _ in range(2))
    count = max(_ELEMENTS // max(valid.numel(), 1), 1)
    for start in range(0, gt.shape[1], count):
        iou = _overlaps(predicted, valid, gt[:, start : start + count])
        value, column = iou.max(1)
        nearest = torch.where(value > best, column + start, nearest)
        best = torch.maximum(best, value)
        if low_quality != "none":
            taken = torch.maximum(taken, _taken(iou, start, low_quality == "official"))
    between = (best >= thresholds[0]) & (best < thresholds[1])
    nearest = nearest.masked_fill(best < thresholds[1], -1)
    column = torch.where(taken >= 0, taken, nearest)
    match = torch.where(column >= 0, column + first_row, sum(map(len, boxes)))
    return match.masked_fill(between & (taken < 0), -1)


def _stacked(boxes: List[Tensor]) -> Tuple[Tensor, Tensor]:
    """Boxes (N, max G_i, 4), nan where an image has fewer, and each image's first row (N, 1)."""
    gt = torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True, padding_value=torch.nan)
    counts = gt[..., 0].isfinite().sum(1, keepdim=True)
    return gt, counts.cumsum(0) - counts


def _overlaps(predicted: Tensor, valid: Tensor, gt: Tensor) -> Tensor:
    """IoU (N, M, R) of predicted boxes (N, R, 4) and gt (N, M, 4); -1 for padding of either."""
    there = valid[:, None] & gt[:, :, :1].isfinite()
    iou = paired_iou(predicted[:, None], gt[:, :, None])
    return iou.masked_fill(~there, -1)


def _taken(iou: Tensor, start: int, official: bool) -> Tensor:
    """The last column (N, R) of which a cell has the largest IoU, counted from `start`, or -1."""
    peak = iou.amax(2, keepdim=True)
    takes = (iou == peak) & (peak >= 0 if official else peak > 0)
    columns = torch.arange(start, start + iou.shape[1], device=iou.device)[:, None]
    return torch.where(takes, columns, -1).amax(1)
