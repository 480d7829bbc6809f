"""AP, log-average miss rate and Jaccard index as CrowdHuman defines them (arXiv 1805.00123).

Boxes are XYXY px, arrays (n, 4); overlaps count above 0.5. What each image contributes is computed
once, in `image_record`; a data set's numbers come from the records alone.
"""

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FPPI_POINTS = (0.0100, 0.0178, 0.03160, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.000)
JI_THRESHOLDS = tuple(i / 10 for i in range(10))
_OVERLAP, _EPS = 0.5, 1e-6


@dataclass
class ImageRecord:
    """What one image contributes.

    scores: (n,) of the detections that count, descending; hits: (n,) bool, true positives;
    positives: number of objects; ratios: (10,) Jaccard index at each of `JI_THRESHOLDS`;
    counted: (10,) bool, whether the image takes part there.
    """

    scores: Array
    hits: NDArray[np.bool_]
    positives: int
    ratios: Array
    counted: NDArray[np.bool_]


def image_record(
    boxes: Array, scores: Array, objects: Array, ignore: Array, size: Tuple[int, int]
) -> ImageRecord:
    """Compare the detections of one image with its objects.

    Detections are rounded as the official tool stores them, x, y, width and height to 0.1 px and
    scores to five digits, and so are the objects for the Jaccard index; then all boxes are clipped.

    Args:
        boxes: (D, 4) detections.
        scores: (D,).
        objects: (G, 4) objects to find.
        ignore: (I, 4) regions where detections and misses do not count.
        size: height and width of the image, px.
    """
    scores = np.asarray(scores, np.float64).round(5)
    order = np.argsort(-scores, kind="stable")
    boxes, scores = clip(_rounded(boxes), size)[order], scores[order]
    hits, kept = match(boxes, clip(objects, size), clip(ignore, size))
    rounded = (clip(_rounded(x), size) for x in (objects, ignore))
    ratios, counted = jaccard(boxes, scores, *rounded)
    return ImageRecord(scores[kept], hits[kept], len(objects), ratios, counted)


def match(
    boxes: Array, objects: Array, ignore: Array
) -> Tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match detections, best first, each to the free object of largest IoU above 0.5.

    Returns:
        Tuple: (D,) bool, those matched; (D,) bool, those that count: all but the unmatched ones of
        which more than half lies in one ignore region.
    """
    iou = overlap(boxes, objects)
    hits = np.zeros(len(boxes), bool)
    for row in np.flatnonzero((iou > _OVERLAP).any(1)):
        best = int(iou[row].argmax())
        if iou[row, best] > _OVERLAP:
            hits[row] = True
            iou[:, best] = 0
    ignored = (overlap(boxes, ignore, over_first=True) > _OVERLAP).any(1)
    return hits, hits | ~ignored


def jaccard(
    boxes: Array, scores: Array, objects: Array, ignore: Array
) -> Tuple[Array, NDArray[np.bool_]]:
    """Jaccard index k / (m + n - k) at each of `JI_THRESHOLDS`, and whether m or n is above 0.

    Of the detections above the threshold, k are matched to objects so that the sum of IoUs is
    largest; n and m count detections and objects less the unmatched ones in ignore regions.

    Args:
        boxes, scores: detections, best first.
        objects, ignore: see `image_record`.
    """
    iou = overlap(boxes, objects)
    iou[iou <= _OVERLAP] = 0
    hidden = [np.any(overlap(x, ignore, over_first=True) > _OVERLAP, 1) for x in (boxes, objects)]
    candidates = np.flatnonzero(iou.any(1))
    ratios, counted = np.zeros(len(JI_THRESHOLDS)), np.zeros(len(JI_THRESHOLDS), bool)
    before, matched = -1, (candidates[:0], candidates[:0])
    for index, threshold in enumerate(JI_THRESHOLDS):
        above = int((scores > threshold).sum())
        rows = candidates[candidates < above]
        if len(rows) != before:
            before, matched = len(rows), _heaviest(iou, rows)
        k = len(matched[0])
        n = above - int(hidden[0][:above].sum() - hidden[0][matched[0]].sum())
        m = len(objects) - int(hidden[1].sum() - hidden[1][matched[1]].sum())
        ratios[index], counted[index] = k / (m + n - k + _EPS), n > 0 or m > 0
    return ratios, counted


def _heaviest(weights: Array, rows: NDArray) -> Tuple[NDArray, NDArray]:
    """Rows and columns of the matching of largest weight among some rows; zeros do not match."""
    from scipy.optimize import linear_sum_assignment  # takes long to load

    i, j = linear_sum_assignment(weights[rows], maximize=True)
    used = weights[rows[i], j] > 0
    return rows[i][used], j[used]


def average_precision(
    records: Sequence[ImageRecord],
) -> Tuple[float, float]:
    """AP and log-average miss rate, each in [0, 1], of a data set's records in its order.

    AP is the area under the precision-recall curve by trapezoids, without an envelope. The miss
    rate is the geometric mean of the misses at nine numbers of false positives per image; it is 0
    if nothing is missed at one of them, and both are nan without objects.
    """
    scores = np.concatenate([x.scores for x in records])
    hits = np.concatenate([x.hits for x in records])
    total = sum(x.positives for x in records)
    if total == 0:
        return float("nan"), float("nan")
    if len(scores) == 0:
        return 0.0, 1.0
    hits = hits[np.argsort(-scores, kind="stable")]
    found, wrong = np.cumsum(hits), np.cumsum(~hits)
    recall, precision = found / total, found / (found + wrong)
    ap = float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))
    points = np.searchsorted(wrong / len(records), FPPI_POINTS, side="left")
    misses = 1 - recall[np.minimum(points, len(recall) - 1)]
    if misses.min() <= 0:
        return ap, 0.0
    return ap, float(np.exp(np.log(misses).mean()))


def jaccard_index(records: Sequence[ImageRecord]) -> List[float]:
    """Mean Jaccard index over the images that take part, in [0, 1], at each of `JI_THRESHOLDS`."""
    ratios = np.sum([x.ratios for x in records], axis=0)
    counted = np.sum([x.counted for x in records], axis=0)
    return (ratios / np.maximum(counted, 1)).tolist()


def overlap(a: Array, b: Array, over_first: bool = False) -> Array:
    """Intersection over union, or over the area of `a`: (n, 4) and (m, 4) -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    whole = areas[0][:, None] if over_first else areas[0][:, None] + areas[1] - inner
    return inner / (whole + _EPS)


def clip(boxes: Array, size: Tuple[int, int]) -> Array:
    """Boxes cut to the image: corners in [0, w - 1] x [0, h - 1] and [0, w] x [0, h]."""
    height, width = size
    upper = np.array([width - 1, height - 1, width, height])
    return np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, upper)


def _rounded(boxes: Array) -> Array:
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    corner, size = np.round(boxes[:, :2], 1), np.round(boxes[:, 2:] - boxes[:, :2], 1)
    return np.concatenate([corner, corner + size], 1)
