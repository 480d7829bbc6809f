"""Sets: a detector's boxes with the probabilities of all classes, after its own suppression."""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from detectron2.layers import batched_nms
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..detectors import Predicted
from .padding import Size


class SetRequest(NamedTuple):
    """How a head wants the sets of its teachers.

    Attributes:
        teachers: indices of those whose sets are joined; () for its one teacher.
        stored: a file's detections are joined too, or read instead of its one teacher.
        least: score from which on boxes count, in (0, 1].
        union: IoU above which, of joined boxes of one class, the less certain goes.
    """

    teachers: Tuple[int, ...]
    stored: bool
    least: float
    union: float


def best_cells(
    scores: Dict[int, Tensor], boxes: Dict[int, Tensor], count: int
) -> Tuple[List[Tensor], List[Tensor]]:
    """Of each level the `count` cells of largest scores, as dense inference starts from them.

    Args:
        scores: by stride (N, HWA, K).
        boxes: by stride (N, HWA, 4) XYXY px.
        count: cells of a level; all where it has fewer.

    Returns:
        Tuple: per image boxes (R, 4) and scores (R, K).
    """
    found: List[List[Tensor]] = [[], []]
    for stride, x in scores.items():
        cells = x.amax(2).topk(min(count, x.shape[1]), 1).indices[..., None]
        for kept, y in zip(found, (boxes[stride], x), strict=True):
            kept.append(y.gather(1, cells.expand(-1, -1, y.shape[2])))
    corners, rows = (list(torch.cat(x, 1)) for x in found)
    return corners, rows


def suppressed(
    boxes: Sequence[Tensor],
    probabilities: Sequence[Tensor],
    exclusive: bool,
    *,
    least: float,
    nms: float,
    limit: int,
) -> Predicted:
    """What class-wise suppression leaves of boxes that each have their best class alone.

    Detectors list a box once for each class that suits it; here it is there once, with all of
    them. The host waits twice an image.

    Args:
        boxes: per image (R, 4) XYXY px.
        probabilities: per image (R, K), the scores that detections are ranked by.
        exclusive: see `Predicted`.
        least: score that the best class must exceed.
        nms: IoU above which the lower score of a class goes.
        limit: boxes that an image keeps at most.
    """
    found = []
    for corners, rows in zip(boxes, probabilities, strict=True):
        scores, classes = rows.max(1)
        index = ((scores > least) & torch.isfinite(corners).all(1)).nonzero()[:, 0]
        kept = batched_nms(corners[index], scores[index], classes[index], nms)[:limit]
        found.append((corners[index[kept]], rows[index[kept]].float()))
    corners, rows = (pad_sequence(list(x), batch_first=True) for x in zip(*found, strict=True))
    return Predicted(corners, rows, exclusive)


def of_labels(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], classes: Sequence[Tensor], num_classes: int
) -> Predicted:
    """The set of detections, of which the class and its score alone are known.

    Args:
        boxes: per image (n, 4) XYXY px.
        scores: per image (n,), in [0, 1].
        classes: per image (n,) long, of K.
        num_classes: K.
    """
    corners, values, places = (
        pad_sequence(list(x), batch_first=True) for x in (boxes, scores, classes)
    )
    rows = values.new_zeros(*places.shape, num_classes).scatter(
        2, places[..., None], values[..., None]
    )
    return Predicted(corners, rows.float(), False, torch.ones_like(places, dtype=torch.bool))


def clipped(boxes: Sequence[Tensor], sizes: Sequence[Size]) -> List[Tensor]:
    """Boxes (R, 4) XYXY px of each image inside of it, whose height and width are given.

    NaN stays, where Detectron2's `Boxes.clip` fails.
    """
    return [
        torch.stack([x[:, 0::2].clamp(0, width), x[:, 1::2].clamp(0, height)], 2).flatten(1)
        for x, (height, width) in zip(boxes, sizes, strict=True)
    ]


def usable(sets: Predicted, sizes: Sequence[Size], least: float) -> Predicted:
    """A set's boxes clipped to their images, the most certain first; the host waits once.

    Boxes without area in the image, with NaN or infinite numbers or below `least` have
    probabilities of 0, and stand last if another image has more.

    Args:
        sets: XYXY px of the student's images.
        sizes: their height and width, px.
        least: the lowest score that counts.
    """
    good = torch.isfinite(sets.boxes).all(2) & torch.isfinite(sets.probabilities).all(2)
    boxes = torch.stack(clipped(list(sets.boxes.where(good[..., None], 0)), sizes))
    good &= (boxes[..., 2:] > boxes[..., :2]).all(2) & (sets.probabilities.amax(2) >= least)
    clean = sets._replace(
        boxes=boxes, probabilities=sets.probabilities.float().where(good[..., None], 0)
    )
    most = int(good.sum(1).max())
    return best_first(clean, most)


def best_first(sets: Predicted, most: int) -> Predicted:
    """The `most` most certain boxes of each image, in stable order."""
    scores = sets.probabilities.amax(2)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :most]
    index = order[..., None]
    boxes = sets.boxes.gather(1, index.expand(-1, -1, 4))
    rows = sets.probabilities.gather(1, index.expand(-1, -1, sets.probabilities.shape[2]))
    labels = None if sets.labels is None else sets.labels.gather(1, order)
    known = None if sets.of_box is None else sets.of_box.gather(1, index.expand_as(rows))
    return sets._replace(boxes=boxes, probabilities=rows, labels=labels, of_box=known)


def union(sets: Sequence[Predicted], threshold: float) -> Predicted:
    """Several sets as one, cut by class-wise suppression; nothing is merged.

    What one of them says nothing of, another may: classes are known if one knows them, those of
    a box if its own set does.

    Args:
        sets: of the same images and classes.
        threshold: IoU above which the less certain of two boxes of one class goes.
    """
    boxes = torch.cat([x.boxes for x in sets], 1)
    rows = torch.cat([x.probabilities for x in sets], 1)
    scores, classes = rows.max(2)
    image = torch.arange(len(boxes), device=boxes.device)[:, None] * rows.shape[2]
    kept = batched_nms(
        boxes.flatten(0, 1), scores.flatten(), (classes + image).flatten(), threshold
    )
    stays = torch.zeros_like(scores).flatten().index_fill(0, kept, 1).view_as(scores)
    labels = torch.cat([_labels(x) for x in sets], 1)
    return Predicted(boxes, rows * stays[..., None], False, labels, *_known(sets))


def _labels(sets: Predicted) -> Tensor:
    if sets.labels is not None:
        return sets.labels
    return torch.zeros_like(sets.boxes[..., 0], dtype=torch.bool)


def _known(sets: Sequence[Predicted]) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """`known` and `of_box` of the union."""
    if all(x.known is None for x in sets):
        return None, None
    first = sets[0].probabilities
    every = torch.ones(first.shape[2], dtype=torch.bool, device=first.device)
    known = [every if x.known is None else x.known for x in sets]
    each = [row.expand_as(x.probabilities) for row, x in zip(known, sets, strict=True)]
    return torch.stack(known).any(0), torch.cat(each, 1)
