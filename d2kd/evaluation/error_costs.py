"""What the six types of errors of `error_types` cost in AP50."""

from typing import Dict

import numpy as np
from numpy.typing import NDArray

from .error_types import FALSE_POSITIVES, JudgedDetections

_RECALLS = np.linspace(0, 1, 101)


def error_costs(judged: JudgedDetections, num_classes: int) -> Dict[str, float]:
    """What AP50 (0 to 100) gains when the errors of one type alone are repaired, and "AP50".

    A classification error gets its object's class, a localization error its object's box, where no
    hit has found that object; other false positives are removed, and missed objects are not asked
    for. "false_positives" and "false_negatives" are the gains without any of them.
    """
    hits, first = judged.kinds == "hit", _repairable(judged)
    totals = np.bincount(judged.object_classes, minlength=num_classes)
    known = totals > 0
    base = _mean_ap(judged.scores, judged.classes, hits, totals, known)
    costs = {"AP50": base}
    for kind in FALSE_POSITIVES:
        repaired = first & (judged.kinds == kind)
        kept = (judged.kinds != kind) | repaired
        classes = judged.classes.copy()
        classes[repaired] = judged.object_classes[judged.objects[repaired]]
        right = hits | repaired
        ap = _mean_ap(judged.scores[kept], classes[kept], right[kept], totals, known)
        costs[kind] = ap - base
    missed, unfound = (
        totals - np.bincount(judged.object_classes[x], minlength=num_classes)
        for x in (missed_objects(judged), ~judged.found)
    )
    alone = judged.scores[hits], judged.classes[hits], hits[hits]
    costs["missed"] = _mean_ap(judged.scores, judged.classes, hits, missed, known) - base
    costs["false_positives"] = _mean_ap(*alone, totals, known) - base
    costs["false_negatives"] = _mean_ap(judged.scores, judged.classes, hits, unfound, known) - base
    return costs


def error_counts(judged: JudgedDetections) -> Dict[str, int]:
    """Number of errors of each type; detections, except "missed", which counts objects."""
    counts = {kind: int((judged.kinds == kind).sum()) for kind in FALSE_POSITIVES}
    return {**counts, "missed": int(missed_objects(judged).sum())}


def missed_objects(judged: JudgedDetections) -> NDArray[np.bool_]:
    """(G,) objects without a hit, a classification or a localization error."""
    missed = ~judged.found
    missed[judged.objects[judged.objects >= 0]] = False
    return missed


def _repairable(judged: JudgedDetections) -> NDArray[np.bool_]:
    """(D,) the highest-scoring error about each object that has no hit."""
    first = np.zeros(len(judged.scores), bool)
    taken = judged.found.copy()
    for i in np.argsort(-judged.scores, kind="stable"):
        about = judged.objects[i]
        if about >= 0 and judged.kinds[i] != "hit" and not taken[about]:
            first[i] = taken[about] = True
    return first


def _mean_ap(
    scores: NDArray, classes: NDArray, hits: NDArray, totals: NDArray, known: NDArray
) -> float:
    """Mean of COCO's AP (0 to 100) over the `known` classes with an object or a detection.

    0 if they are known and none has; nan if none is known.
    """
    if not known.any():
        return float("nan")
    found = np.bincount(classes, minlength=len(totals))
    asked = (known & (totals + found > 0)).nonzero()[0]
    values = [_ap(scores[classes == k], hits[classes == k], totals[k]) for k in asked]
    return 100 * float(np.mean(values or [0.0]))


def _ap(scores: NDArray, hits: NDArray, total: int) -> float:
    """Precision, made non-increasing, at 101 recalls; 0 without objects."""
    if total == 0 or not hits.any():
        return 0.0
    right = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    places = np.searchsorted(right / total, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(right))].mean())
