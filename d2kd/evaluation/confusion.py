"""What is taken for what, and the mistakes in each image, from a score on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .error_types import JudgedDetections


def confusion_matrix(judged: JudgedDetections, threshold: float, classes: int) -> NDArray[np.int64]:
    """Counts (K + 1, K + 1) of objects by what they are (row) and what is detected (column).

    Each object is in one cell: that of its hit, or else of the detection of another class with the
    highest score that covers it (IoU 0.5), or in the last column, missed. Other detections are in
    the last row, where nothing is.
    """
    kept, hit = judged.scores >= threshold, judged.kinds == "hit"
    taken, rest = np.full(len(judged.found), classes), kept.copy()
    about = kept & (hit | (judged.kinds == "classification"))
    for i in np.lexsort((-judged.scores, ~hit)):
        if about[i] and taken[judged.objects[i]] == classes:
            taken[judged.objects[i]], rest[i] = judged.classes[i], False
    rows = np.append(judged.object_classes, np.full(rest.sum(), classes))
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(matrix, (rows, np.append(taken, judged.classes[rest])), 1)
    return matrix


class Mistakes(NamedTuple):
    """Counts (N,) of each image: objects found, objects missed, detections that hit none."""

    found: NDArray[np.int64]
    missed: NDArray[np.int64]
    wrong: NDArray[np.int64]


def mistakes(judged: JudgedDetections, threshold: float, images: int) -> Mistakes:
    """The mistakes in images with the ids 0 to N - 1."""
    kept, hit = judged.scores >= threshold, judged.kinds == "hit"
    objects = np.bincount(judged.object_images, minlength=images)
    found = np.bincount(judged.images[kept & hit], minlength=images)
    wrong = np.bincount(judged.images[kept & ~hit], minlength=images)
    return Mistakes(found, objects - found, wrong)
