"""COCO's AP with weighted images, for a bootstrap over the images of a data set."""

import contextlib
import io
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from .records import ALL_SIZES, MAX_DETECTIONS, Coco, nothing

_RECALLS = Params(iouType="bbox").recThrs


class ClassMatches(NamedTuple):
    """Which of the D detections of a class hit, best score first, at T thresholds of the IoU.

    Attributes:
        image: (D,) index of the detection's image.
        place: (C,) indices of the detections that are no false positives at every threshold.
        hit: (T, C) they have an object of their own.
        counts: (T, C) they are not ignored, as those of crowds are.
        objects: (N,) number of the class's objects in each image, crowds left out.
    """

    image: NDArray[np.int64]
    place: NDArray[np.int64]
    hit: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    objects: NDArray[np.int64]


def match(truth: Coco, detections: Sequence[Dict[str, Any]]) -> List[ClassMatches]:
    """Match detections with objects, as pycocotools does, once for all weights.

    Args:
        truth: see `coco_truth`; images are numbered from 0, classes in the order of the result.
        detections: dicts with image_id, category_id, bbox (XYWH px) and score.
    """
    return match_by_size(truth, detections, [ALL_SIZES])[0]


def match_by_size(
    truth: Coco, detections: Sequence[Dict[str, Any]], sizes: Sequence[Tuple[float, float]]
) -> List[List[ClassMatches]]:
    """`match` for each range of the square root of an object's area, px."""
    coco = COCO()
    coco.dataset = {"info": {}, **truth}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(list(detections) or [nothing(truth)]), "bbox")
        evaluation.params.areaRng = [[low**2, high**2] for low, high in sizes]
        evaluation.params.areaRngLbl = [str(i) for i in range(len(sizes))]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    rows, count = evaluation.evalImgs, len(truth["images"])
    thresholds, step = len(evaluation.params.iouThrs), count * len(sizes)
    return [
        [_of_class(rows[i : i + count], thresholds) for i in range(first, len(rows), step)]
        for first in range(0, step, count)
    ]


def _of_class(found: Sequence[Dict[str, Any] | None], thresholds: int) -> ClassMatches:
    """Join what pycocotools found in each image; None is for neither objects nor detections."""
    rows = [x for x in found if x]
    empty = np.zeros((thresholds, 0))
    scores = np.concatenate([np.zeros(0), *(x["dtScores"] for x in rows)])
    order = np.argsort(-scores, kind="stable")
    image = np.repeat(np.arange(len(found)), [len(x["dtScores"]) if x else 0 for x in found])
    matched = np.concatenate([empty, *(x["dtMatches"] for x in rows)], 1)[:, order] > 0
    counts = np.concatenate([empty, *(x["dtIgnore"] for x in rows)], 1)[:, order] == 0
    objects = np.array([np.sum(x["gtIgnore"] == 0) if x else 0 for x in found], np.int64)
    place = np.flatnonzero((matched | ~counts).any(0))
    hit = (matched & counts)[:, place]
    return ClassMatches(image[order], place, hit, counts[:, place], objects)


def weighted_ap(classes: Sequence[ClassMatches], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """AP (0 to 100) at T thresholds of K classes, (T, K), if image i were there weights[i] times.

    nan stands for a class without objects. The mean of the others is COCO's AP, at weights of one.

    Args:
        classes: of one model.
        weights: (N,) whole numbers from 0.
    """
    return np.stack([_class_ap(x, weights) for x in classes], 1)


def _class_ap(found: ClassMatches, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    total, weight = found.objects @ weights, weights[found.image]
    if not total:
        return np.full(len(found.hit), np.nan)
    wrong, weight = weight.copy(), weight[found.place]
    wrong[found.place] = 0
    hits = np.cumsum(found.hit * weight, 1)
    counted = np.cumsum(wrong)[found.place] + np.cumsum(found.counts * weight, 1)
    precision = hits / np.maximum(counted, 1)
    best_behind = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    padded = np.pad(best_behind, ((0, 0), (0, 1)))  # recalls that are never reached
    places = np.stack([np.searchsorted(row, _RECALLS) for row in hits / total])
    return 100 * np.take_along_axis(padded, places, 1).mean(1)


def bootstrap(
    models: Sequence[Sequence[ClassMatches]], resamples: int = 400, seed: int = 0
) -> NDArray[np.float64]:
    """`weighted_ap` of M models on R samples of their N images, drawn with replacement.

    Returns:
        NDArray: (R, M, T, K); every model has the same images in a sample.
    """
    images = len(models[0][0].objects)
    draws = np.random.default_rng(seed).multinomial(images, [1 / images] * images, resamples)
    return np.stack([[weighted_ap(model, weights) for model in models] for weights in draws])
