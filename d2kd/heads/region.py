"""The valuable localization region of LD (CVPR 2022, arXiv 2102.12252)."""

from typing import List

import torch
from torch import Tensor

from ..detectors.assigner import atss_thresholds, image_of_box
from ..losses.box import box_area, intersection_and_union


@torch.no_grad()
def valuable_region(
    anchors: List[Tensor],
    valid: Tensor,
    boxes: List[Tensor],
    topk: int = 9,
    gamma: float = 0.25,
    overlap: str = "diou",
) -> Tensor:
    """Weights of the anchors near objects that may or may not be positive.

    With t_g the ATSS threshold of box g, an anchor is in the region of g where
    gamma * t_g <= X < t_g; its weight is the largest IoU with such a g, 0 outside. Positives are
    not taken out.

    Args:
        anchors, valid, boxes, topk: see `d2kd.detectors.assigner.atss_assign`.
        gamma: lower end of the band.
        overlap: X is "diou", IoU - rho^2 / c^2 as in the paper, or "iof" as released: intersection
            over the anchor's area in place of the IoU.

    Returns:
        Tensor: (N, R) in [0, 1).

    Raises:
        ValueError: another `overlap`.
    """
    if overlap not in ("diou", "iof"):
        raise ValueError(f"overlap must be 'diou' or 'iof', not {overlap!r}")
    threshold = atss_thresholds(anchors, valid, boxes, topk)[:, None]
    prior, gt, images = torch.cat(anchors)[None], torch.cat(boxes)[:, None], image_of_box(boxes)
    inner, union = intersection_and_union(prior, gt)
    iou = inner / union
    share = inner / box_area(prior[..., :2], prior[..., 2:])
    x = (iou if overlap == "diou" else share) - _center_penalty(prior, gt)
    weight = torch.where((x >= gamma * threshold) & (x < threshold), iou, 0) * valid[images]
    rows = images[:, None].expand_as(weight)
    return weight.new_zeros(valid.shape).scatter_reduce(0, rows, weight, "amax")


def _center_penalty(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of centers over the squared diagonal of the enclosing box."""
    gap = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    return gap.square().sum(-1) / outer.square().sum(-1).clamp(min=1e-6)
