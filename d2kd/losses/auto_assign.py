"""Losses of AutoAssign, whose positives and negatives are weighed instead of assigned.

Zhu et al., "AutoAssign: Differentiable Label Assignment for Dense Object Detection" (arXiv
2007.03496). A *pair* is a box and a cell inside it; P pairs name their box, one of G, by its index.
"""

from typing import Any, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float
from .stable import log1p

_EPS = 1e-12


def bag_loss(confidence: Tensor, prior: Tensor, box: Tensor, num_boxes: int) -> Tensor:
    """-ln of each box's weighted mean confidence, at most 100, which is that of no pair.

    The weights are exp(3 confidence) * prior, normalized over the pairs of the box; they carry
    gradient. To be called outside autocast.

    Args:
        confidence: (P,) probability in [0, 1] that class and box of the cell are the box's.
        prior: (P,) in [0, 1].
        box: (P,) long.
        num_boxes: G.

    Returns:
        Tensor: (G,) in [0, 100].
    """
    confidence, prior = at_least_float(confidence), at_least_float(prior)
    none = confidence.new_zeros(num_boxes)
    weight = (3 * confidence).exp() * prior
    total = none.index_add(0, box, weight).clamp(min=_EPS)
    share = weight / total.index_select(0, box)
    bag = none.index_add(0, box, share * confidence).clamp(max=1)  # rounding may exceed it
    return F.binary_cross_entropy(bag, torch.ones_like(bag), reduction="none")


@torch.no_grad()
def negative_factors(overlap: Tensor, box: Tensor, num_boxes: int) -> Tensor:
    """How much a cell of a box counts as a negative of its class, without gradient.

    1 - t, where t is 1 / (1 - overlap), brought to [0, 1] over the pairs of the box: 0 for the
    cell that predicts best, and for all where they predict equally well.

    Args:
        overlap: (P,) IoU in [0, 1] of the cell's prediction with the best of all boxes.
        box: (P,) long.
        num_boxes: G.

    Returns:
        Tensor: (P,) in [0, 1].
    """
    t = 1 / (1 - at_least_float(overlap)).clamp(min=_EPS)
    low = t.new_full((num_boxes,), torch.inf).scatter_reduce(0, box, t, "amin")
    high = t.new_zeros(num_boxes).scatter_reduce(0, box, t, "amax")
    low, high = low.index_select(0, box), high.index_select(0, box)
    return 1 - (t - low + _EPS) / (high - low + _EPS)


def prior_loss(prior: Tensor, image: Tensor, counts: Tensor) -> Tensor:
    """Number of boxes over the sum of the priors, for each image; 0 where no cell is in a box.

    It keeps the prior from vanishing; of the released code, not in the paper. There an image whose
    boxes contain no cell has their number times 1e12, without gradient; mmdetection has 0 too.

    Args:
        prior: (P,) in [0, 1].
        image: (P,) long, index of the image.
        counts: (N,) boxes of each image.

    Returns:
        Tensor: (N,) >= 0.
    """
    prior = at_least_float(prior)
    none = prior.new_zeros(len(counts))
    total = none.index_add(0, image, prior)
    pairs = none.index_add(0, image, torch.ones_like(prior))
    return torch.where(pairs > 0, counts / total.clamp(min=_EPS), total)


def joint_negative_loss(logits: Tensor, objectness: Tensor, factors: Tensor) -> Tensor:
    """-a^2 ln(1 - a) of a = factor * sigmoid(z) * sigmoid(o), the loss of a negative.

    Value and gradient are computed together, and one tensor is kept for the backward pass beside
    the logits; not differentiable twice. 1 - a is held above the precision of 1 (ours; the released
    code bounds the logarithm by 100 there).

    Args:
        logits: (..., K) class logits z.
        objectness: (..., 1) logit o.
        factors: (..., K) in [0, 1], constant.

    Returns:
        Tensor: (..., K), >= 0, float32 (float64 for float64 input).
    """
    logits, objectness = at_least_float(logits), at_least_float(objectness)
    return _JointNegative.apply(logits, objectness, factors)


class _JointNegative(torch.autograd.Function):
    """The slope is that by ln a: a d/da (-a^2 ln(1 - a)) = 2 loss + a^3 / (1 - a)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, objectness: Tensor, factors: Tensor) -> Tensor:
        joint = logits.sigmoid().mul_(objectness.sigmoid()).mul_(factors)
        joint.clamp_(max=1 - torch.finfo(joint.dtype).eps)
        square, negative = joint.square(), joint.neg()
        loss = log1p(negative).neg_().mul_(square)
        slope = square.mul_(joint).div_(negative.add_(1)).add_(loss, alpha=2)
        ctx.save_for_backward(slope, logits, objectness)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, Tensor, None]:
        slope, logits, objectness = ctx.saved_tensors
        slope = slope * grad
        total = slope.sum(-1, keepdim=True)
        return slope.mul_((-logits).sigmoid_()), total.mul_((-objectness).sigmoid_()), None
