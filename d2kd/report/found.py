"""What a run's last evaluation detected, and what follows from it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Dict, List, Sequence

import numpy as np
from numpy.typing import NDArray

from ..evaluation.best_f1 import best_point, f1_curves
from ..evaluation.bootstrap import ClassMatches, match_by_size
from ..evaluation.confusion import Mistakes, confusion_matrix, mistakes
from ..evaluation.error_types import JudgedDetections, judge
from ..evaluation.groups import COCO_SIZES
from ..evaluation.records import ALL_SIZES, Coco, box_precision

_EDGES = (ALL_SIZES[0], *COCO_SIZES, ALL_SIZES[1])
SIZES = [ALL_SIZES, *zip(_EDGES[:-1], _EDGES[1:], strict=True)]
"""All objects, small ones, medium ones, large ones: square roots of the area, px."""


@dataclass
class Found:
    """Detections of a data set and its objects, K classes.

    Attributes:
        truth: see `coco_truth`.
        detections: dicts with image_id, category_id, bbox (XYWH px) and score.
        classes: names.
    """

    truth: Coco
    detections: Sequence[Dict[str, Any]]
    classes: List[str]

    @cached_property
    def matches(self) -> List[List[ClassMatches]]:
        """Of each of `SIZES`, by class."""
        return match_by_size(self.truth, self.detections, SIZES)

    @cached_property
    def judged(self) -> JudgedDetections:
        """Hits and errors."""
        return judge(self.truth, self.detections)

    @cached_property
    def curves(self) -> Dict[str, NDArray[np.float64]]:
        """See `f1_curves`."""
        return f1_curves(self.judged)

    @cached_property
    def best(self) -> Dict[str, float]:
        """See `best_f1`."""
        return best_point(self.curves)

    @property
    def threshold(self) -> float:
        """The score with the best F1; 0.5 where nothing is found."""
        return self.best.get("threshold", 0.5)

    @property
    def precision(self) -> NDArray[np.float64]:
        """(10, 101) mean precision of the classes with objects, by IoU and recall."""
        known = np.array([bool(x.objects.any()) for x in self.matches[0]])
        return box_precision(self.truth, self.detections)[:, :, known, 0].mean(2)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """See `confusion_matrix`."""
        return confusion_matrix(self.judged, self.threshold, len(self.classes))

    @cached_property
    def mistakes(self) -> Mistakes:
        """In each image."""
        return mistakes(self.judged, self.threshold, len(self.truth["images"]))
