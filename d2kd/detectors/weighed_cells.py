"""AutoAssign's losses: predictions at the cells inside boxes, and at all cells as negatives."""

from typing import Tuple

import torch
from torch import Tensor

from ..losses.auto_assign import bag_loss, joint_negative_loss, negative_factors, prior_loss
from ..losses.box import box_iou_loss
from ..losses.reduce import mean_over_ranks
from .center_prior import Pairs, best_overlap


def weighed_losses(
    logits: Tensor, boxes: Tensor, objectness: Tensor, pairs: Pairs, skip_empty: bool = False
) -> Tuple[Tensor, Tensor, Tensor]:
    """Positive, negative and prior loss, scalars of weight 1; to be called outside autocast.

    The positive loss is divided by the number of boxes, the negative one by the sum of the priors,
    both a mean over ranks and at least 1; the prior loss is a mean over images.

    Args:
        logits: (N, R, K) class logits, at least float32, as the others.
        boxes: (N, R, 4) decoded, XYXY px.
        objectness: (N, R, 1) logits.
        pairs: of the batch.
        skip_empty: leave boxes without any cell out of the positive loss.
    """
    one = boxes.new_ones(len(pairs.boxes))
    counts = boxes.new_zeros(len(logits)).index_add(0, pairs.images, one)
    sums = torch.stack([counts.sum(), pairs.prior.detach().sum()])
    num_boxes, total_prior = mean_over_ranks(sums).clamp(min=1).unbind()
    confidence = _confidence(logits, boxes, objectness, pairs)
    positive = bag_loss(confidence, pairs.prior, pairs.box, len(one))
    if skip_empty:
        positive = positive * torch.zeros_like(one).index_fill(0, pairs.box, 1)
    negative = joint_negative_loss(logits, objectness, _factors(logits, boxes, pairs))
    center = prior_loss(pairs.prior, pairs.images[pairs.box], counts)
    return positive.sum() / num_boxes, negative.sum() / total_prior, center.mean()


def _confidence(logits: Tensor, boxes: Tensor, objectness: Tensor, pairs: Pairs) -> Tensor:
    """(P,) in [0, 1]: probability of the box's class, times exp(-5 (1 - GIoU))."""
    entries = pairs.row * logits.shape[2] + pairs.classes[pairs.box]
    joint = logits.flatten().index_select(0, entries).sigmoid()
    joint = joint * objectness.flatten().index_select(0, pairs.row).sigmoid()
    predicted = boxes.flatten(0, 1).index_select(0, pairs.row)
    return joint * (-5 * box_iou_loss(predicted, pairs.boxes[pairs.box])).exp()


@torch.no_grad()
def _factors(logits: Tensor, boxes: Tensor, pairs: Pairs) -> Tensor:
    """(N, R, K) in [0, 1]: how much each cell is a negative of each class."""
    best = [best_overlap(x, b) for x, b in zip(boxes, pairs.boxes.split(pairs.counts), strict=True)]
    overlap = torch.cat(best).index_select(0, pairs.row)
    factor = negative_factors(overlap, pairs.box, len(pairs.boxes))
    entries = pairs.row * logits.shape[2] + pairs.classes[pairs.box]
    ones = torch.ones_like(logits)
    return ones.view(-1).scatter_reduce_(0, entries, factor, "amin").view_as(logits)
