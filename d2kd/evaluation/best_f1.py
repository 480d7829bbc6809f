"""The score from which on to show detections: that of the best F1 in validation."""

from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.checkpointer import FINAL
from ..checkpoint.of_run import BEST
from ..checkpoint.weights_file import split_pin
from ..file_io import read_json, sha256_of
from .error_types import JudgedDetections, judge
from .records import Coco

TASK = "best_f1"
"""What it is called among the results of an evaluation, beside "bbox"."""

_KEYS = "threshold", "F1", "precision", "recall"
_THRESHOLDS = np.arange(1, 1000) / 1000
_RECORDS = {f"{BEST}.pth": f"{BEST}.json", FINAL: "results.json"}


def best_f1(truth: Coco, detections: Sequence[dict]) -> Dict[str, float]:
    """The threshold of the score with the best F1 at IoU 0.5, of all classes together.

    Where several thresholds are as good, it is the one in their middle.

    Args:
        truth: see `coco_truth`.
        detections: dicts with image_id, category_id, bbox (XYWH px) and score.

    Returns:
        `threshold`, and at it `F1`, `precision` and `recall`, in [0, 1]; {} where nothing is found.
    """
    return best_point(f1_curves(judge(truth, detections)))


def best_point(curves: Mapping[str, NDArray[np.float64]]) -> Dict[str, float]:
    """The best of `f1_curves`, as `best_f1` gives it."""
    f1 = curves["F1"]
    if not f1.any():
        return {}
    best = np.flatnonzero(f1 == f1.max())
    i = best[len(best) // 2]
    return {key: float(values[i]) for key, values in curves.items()}


def f1_curves(judged: JudgedDetections) -> Dict[str, NDArray[np.float64]]:
    """999 scores as `threshold`, and `F1`, `precision` and `recall` of what scores as much."""
    scores, objects = judged.scores, len(judged.found)
    found, hits = (
        len(x) - np.searchsorted(np.sort(x), _THRESHOLDS)
        for x in (scores, scores[judged.kinds == "hit"])
    )
    f1 = 2 * hits / np.maximum(found + objects, 1)
    values = _THRESHOLDS, f1, hits / np.maximum(found, 1), hits / max(objects, 1)
    return dict(zip(_KEYS, values, strict=True))


def point_of(results: Any) -> Dict[str, float]:
    """`best_f1` among the results of an evaluation, of its first data set; {} if it has none."""
    if not isinstance(results, Mapping):
        return {}
    point = results.get(TASK)
    if isinstance(point, dict):
        values = [point.get(key) for key in _KEYS]
        return point if all(isinstance(x, float) and 0 <= x <= 1 for x in values) else {}
    return next(filter(None, map(point_of, results.values())), {})


def stored_best_f1(weights: str) -> Dict[str, float]:
    """`best_f1` of a run's checkpoint: of the training or, without that, of `d2kd eval`; or {}."""
    path = Path(split_pin(weights)[0])
    own, evaluated = (
        read_json(x) if x.is_file() else {}
        for x in (path.parent / _RECORDS.get(path.name, ""), path.parent / "eval" / "results.json")
    )
    is_of_it = evaluated and path.is_file() and sha256_of(path) in str(evaluated)
    return point_of(own) or (point_of(evaluated) if is_of_it else {})


def score_threshold(weights: str) -> Tuple[float, str]:
    """The lowest score to show, 0.5 where none is stored, and a text that says so."""
    if point := stored_best_f1(weights):
        value, f1 = point["threshold"], point["F1"]
        return value, f"score threshold {value:g}: the best F1 ({f1:.2f}) in validation"
    return 0.5, f"score threshold 0.5: none is stored for {weights} (d2kd eval RUN stores one)"
