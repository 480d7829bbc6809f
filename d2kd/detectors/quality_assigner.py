"""DDOD's assignment: which anchors are positive for which box, by what is predicted from them.

Chen et al., "Disentangle Your Dense Object Detector", ACM MM 2021 (arXiv 2107.02963).
"""

from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from ..losses.box import side_distances
from ..losses.precision import at_least_float
from .assigner import give_to_best, mean_plus_deviation, nearest_anchors, paired_iou

_ELEMENTS = 2**20  # pairs of a box and an anchor in memory at a time


class Objects(NamedTuple):
    """G boxes of a batch: (G, 4) XYXY px, their classes (G,) and images (G,), both long."""

    boxes: Tensor
    classes: Tensor
    images: Tensor


class Predictions(NamedTuple):
    """What N images' R anchors predict.

    `anchors` by level, (R_l, 4) XYXY px; `valid` (N, R), False in batch padding; class `logits`
    (N, R, K); `deltas` (N, R, D); `decode` makes boxes (..., 4) XYXY px of deltas (..., D) and
    anchors (..., 4).
    """

    anchors: List[Tensor]
    valid: Tensor
    logits: Tensor
    deltas: Tensor
    decode: Callable[[Tensor, Tensor], Tensor]


class Candidates(NamedTuple):
    """Of each box C anchors: their indices, whether they are chosen, and q; (G, C) each."""

    anchors: Tensor
    chosen: Tensor
    quality: Tensor


@torch.no_grad()
def quality_assign(
    predicted: Predictions,
    objects: Objects,
    exponents: Sequence[float],
    topk: int = 9,
    rule: str = "atss",
) -> List[Tensor]:
    """Match the anchors of a batch to its boxes, all images and boxes at once.

    The quality of an anchor for a box of class c is q = p_c^(1 - x) * IoU^x, of its own class
    probability and its decoded, unclipped box, in float32. By the rule "atss" the `topk` nearest
    anchors of each level are a box's candidates, as ATSS has them, and those are positive whose q
    reaches mean + unbiased standard deviation of the candidates' q. By "topk", which PGD's released
    code has for DDOD, those of the `topk` largest q over all levels are positive, unless q is 0.
    By both, the center has to lie more than 0.01 px inside the box, and an anchor that is positive
    for several boxes goes to the one of largest q, among equals to the first.

    Where the predictions of all candidates overlap nothing, "atss" makes every candidate inside the
    box a positive and "topk" none, as released.

    Args:
        predicted: by the anchors.
        objects: boxes of all images, in the order of the images.
        exponents: x in [0, 1], one for each assignment that is made.
        topk: candidates per box, and for "atss" per level.
        rule: "atss" or "topk".

    Returns:
        List[Tensor]: for each exponent (N, R) long, the matched row of `objects`, G for background.
    """
    flat, matches = torch.cat(predicted.anchors), []
    for index, chosen, quality in RULES[rule](predicted, objects, exponents, topk):
        inside = side_distances(flat[index], objects.boxes[:, None]).amin(-1) > 0.01
        cells = objects.images[:, None] * len(flat) + index
        matches.append(give_to_best(cells, chosen & inside, quality, predicted.valid.shape))
    return matches


def quality(score: Tensor, iou: Tensor, exponent: float) -> Tensor:
    """score^(1 - x) * IoU^x, x the exponent, of class scores and IoUs (...) in [0, 1]."""
    return score.pow(1 - exponent) * iou.pow(exponent)


def _nearest(
    predicted: Predictions, objects: Objects, exponents: Sequence[float], topk: int
) -> Iterator[Candidates]:
    """Only what the candidates predict is looked at."""
    boxes, classes, images = objects
    index, near = nearest_anchors(predicted.anchors, predicted.valid, boxes, images, topk)
    at = images[:, None], index
    score = at_least_float(predicted.logits[(*at, classes[:, None])]).sigmoid()
    decoded = predicted.decode(predicted.deltas[at], torch.cat(predicted.anchors)[index])
    iou = paired_iou(decoded, boxes[:, None])
    for exponent in exponents:
        q = quality(score, iou, exponent)
        yield Candidates(index, near & (q >= mean_plus_deviation(q, near)), q)


def _best(
    predicted: Predictions, objects: Objects, exponents: Sequence[float], topk: int
) -> Iterator[Candidates]:
    decoded = predicted.decode(predicted.deltas, torch.cat(predicted.anchors))
    rows = max(_ELEMENTS // decoded.shape[1], 1)
    chunks: List[List[Tuple[Tensor, Tensor]]] = [[] for _ in exponents]
    for boxes, classes, images in zip(*(x.split(rows) for x in objects), strict=True):
        score = at_least_float(predicted.logits[images, :, classes]).sigmoid()
        iou = paired_iou(decoded[images], boxes[:, None])
        for found, exponent in zip(chunks, exponents, strict=True):
            q = quality(score, iou, exponent) * predicted.valid[images]
            found.append(q.topk(min(topk, q.shape[1])))
    for found in chunks:
        q, index = (torch.cat(x) for x in zip(*found, strict=True))
        yield Candidates(index, q > 0, q)


Rule = Callable[[Predictions, Objects, Sequence[float], int], Iterator[Candidates]]
RULES: Dict[str, Rule] = {"atss": _nearest, "topk": _best}
