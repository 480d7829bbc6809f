"""Six types of detection errors and what each costs (TIDE, Bolya et al., arXiv 2008.08115).

A false positive is a `classification` error if it overlaps an object of another class by at least
`FOREGROUND`, `localization` if its best object of the same class overlaps by `BACKGROUND` to
`FOREGROUND`, a `duplicate` if it fits an object that a higher score has already found,
`background` if no object overlaps by more than `BACKGROUND`, and `both` otherwise. An object that
is not found is `missed` unless a classification or localization error is about it.

What the paper leaves open is as in its released tool, whose numbers these are: where two types fit,
the order is localization, classification, duplicate, background, both; an object repairs one wrong
detection only, the highest score among its classification and localization errors. Ours: crowds and
detections in them take no part, and a class without objects has no AP.
"""

from dataclasses import dataclass, field
from typing import Dict, List, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from .records import Coco

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU
MAX_DETECTIONS = 100  # per image
FALSE_POSITIVES = ("classification", "localization", "both", "duplicate", "background")
ERROR_TYPES = (*FALSE_POSITIVES, "missed")


@dataclass
class JudgedDetections:
    """Judged detections of a data set, D in all, and its G objects.

    Attributes:
        scores, classes: (D,).
        kinds: (D,) "hit" or one of `FALSE_POSITIVES`.
        objects: (D,) index of the object that a hit, classification or localization error is
            about, else -1.
        images: (D,) ids.
        object_classes, object_images: (G,).
        found: (G,) bool, objects with a hit.
    """

    scores: NDArray = field(default_factory=lambda: np.zeros(0))
    classes: NDArray = field(default_factory=lambda: np.zeros(0, int))
    kinds: NDArray = field(default_factory=lambda: np.zeros(0, "U14"))
    objects: NDArray = field(default_factory=lambda: np.zeros(0, int))
    images: NDArray = field(default_factory=lambda: np.zeros(0, int))
    object_classes: NDArray = field(default_factory=lambda: np.zeros(0, int))
    object_images: NDArray = field(default_factory=lambda: np.zeros(0, int))
    found: NDArray = field(default_factory=lambda: np.zeros(0, bool))


def judge(truth: Coco, detections: Sequence[dict]) -> JudgedDetections:
    """Sort the detections of a data set into hits and errors.

    Args:
        truth: COCO dictionary; objects in its order, crowds left out.
        detections: dicts with image_id, category_id, bbox (XYWH px) and score.
    """
    objects: Dict[int, List[dict]] = {image["id"]: [] for image in truth["images"]}
    found: Dict[int, List[dict]] = {image["id"]: [] for image in truth["images"]}
    place: Dict[int, int] = {}
    for x in truth["annotations"]:
        objects[x["image_id"]].append(x)
        if not x["iscrowd"]:
            place[x["id"]] = len(place)
    for x in detections:
        found[x["image_id"]].append(x)
    images = {i: _judge_image(found[i], objects[i], place) for i in objects}
    numbered = [(*x, np.full(len(x[0]), i)) for i, x in images.items() if len(x[0])]
    result = JudgedDetections(*map(np.concatenate, zip(*numbered, strict=True)))
    result.object_classes, result.object_images = (
        np.array([x[key] for x in truth["annotations"] if not x["iscrowd"]], int)
        for key in ("category_id", "image_id")
    )
    result.found = np.zeros(len(place), bool)
    result.found[result.objects[result.kinds == "hit"]] = True
    return result


def _judge_image(
    found: List[dict], objects: List[dict], place: Dict[int, int]
) -> Tuple[NDArray, NDArray, NDArray, NDArray]:
    """Scores, classes, kinds and objects of an image's detections, best first, crowds left out."""
    found = sorted(found, key=lambda x: -x["score"])[:MAX_DETECTIONS]
    real = [x for x in objects if not x["iscrowd"]]
    same = _classes(found)[:, None] == _classes(real)
    iou = _overlap(found, real, crowd=False)
    hits = _match(np.where(same, iou, 0))
    kinds, about = _kinds(iou, same, hits)
    crowds = [x for x in objects if x["iscrowd"]]
    inside = _overlap(found, crowds, crowd=True) >= FOREGROUND
    inside &= _classes(found)[:, None] == _classes(crowds)
    kept = (hits >= 0) | ~inside.any(1)
    places = np.array([place[x["id"]] for x in real] + [-1])[about]
    scores = np.array([x["score"] for x in found], float)
    return scores[kept], _classes(found)[kept], kinds[kept], places[kept]


def _match(iou: NDArray) -> NDArray:
    """For each detection, best first, its free object of largest IoU, or -1; iou: (D, G)."""
    hits, free = np.full(len(iou), -1), iou.copy()
    for row in np.flatnonzero((iou >= FOREGROUND).any(1)):
        best = int(free[row].argmax())
        if free[row, best] >= FOREGROUND:
            hits[row], free[:, best] = best, 0
    return hits


def _kinds(iou: NDArray, same: NDArray, hits: NDArray) -> Tuple[NDArray, NDArray]:
    """(D,) kind and (D,) object, -1 for none, of an image's detections."""
    padded = np.concatenate([iou, np.zeros((len(iou), 1))], 1)  # a last object that none overlaps
    right = np.where(np.pad(same, ((0, 0), (0, 1))), padded, 0)
    wrong = np.where(np.pad(~same, ((0, 0), (0, 1))), padded, 0)
    best = right.max(1)
    conditions = {
        "hit": hits >= 0,
        "localization": (best >= BACKGROUND) & (best < FOREGROUND),
        "classification": wrong.max(1) >= FOREGROUND,
        "duplicate": best >= FOREGROUND,
        "background": padded.max(1) <= BACKGROUND,
    }
    kinds = np.select(list(conditions.values()), list(conditions), "both").astype("U14")
    objects = np.select(
        [kinds == "hit", kinds == "localization", kinds == "classification"],
        [hits, right.argmax(1), wrong.argmax(1)],
        -1,
    )
    return kinds, objects


def _classes(items: List[dict]) -> NDArray:
    return np.array([x["category_id"] for x in items], int)


def _overlap(found: List[dict], objects: List[dict], crowd: bool) -> NDArray:
    """IoU, or the share of the detection, (D, G)."""
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    boxes = (np.array([x["bbox"] for x in items], float) for items in (found, objects))
    return np.asarray(mask_utils.iou(*boxes, [int(crowd)] * len(objects)))
