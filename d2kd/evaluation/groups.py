"""AP by size of the objects and by crowding, recall by overlap of the objects."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from .error_costs import error_costs, error_counts
from .error_types import JudgedDetections, judge
from .records import ALL_SIZES, Coco, RecordsEvaluator, box_precision, mean_precision

COCO_SIZES = (32.0, 96.0)  # px
OVERLAPS = (0.0, 0.25, 0.5)  # IoU


class ErrorEvaluator(RecordsEvaluator):
    """`RecordsEvaluator` that also says which errors cost how much, and on which objects.

    Further results: "error_cost", AP50 points by type of error; "error_count"; "AP_by_size",
    "AP_by_objects" (number of objects in the image) and "recall_by_overlap" (share of the objects
    found at IoU 0.5, by their largest IoU with another object), 0 to 100, by group; "objects" with
    the number of objects of each group.
    """

    def __init__(
        self,
        records: Sequence[Dict[str, Any]],
        class_names: Sequence[str],
        sizes: Sequence[float] = COCO_SIZES,
        crowds: Optional[Sequence[int]] = None,
        overlaps: Sequence[float] = OVERLAPS,
    ) -> None:
        """See the base class.

        Args:
            records: in Detectron2's format.
            class_names: of the category ids 0, 1, ...
            sizes: limits between groups of the square root of the box's area, px; a limit belongs
                to both groups, as in COCO.
            crowds: limits between groups of the number of objects in an image; None for thirds of
                the images with objects. A limit belongs to the group below it.
            overlaps: limits between groups of the largest IoU with another object, likewise.
        """
        super().__init__(records, class_names)
        self.sizes, self.overlaps = list(sizes), list(overlaps)
        self.crowds = list(crowds if crowds is not None else _thirds(self.truth))

    def analyse(self) -> Dict[str, Dict[str, float]]:
        """See the base class."""
        judged = judge(self.truth, self.detections)
        by_size, size_counts = ap_by_size(self.truth, self.detections, self.sizes)
        by_crowd, crowd_counts = ap_by_objects(self.truth, self.detections, self.crowds)
        recall, overlap_counts = recall_by_overlap(self.truth, judged, self.overlaps)
        return {
            **super().analyse(),
            "error_cost": error_costs(judged, len(self.class_names)),
            "error_count": {**error_counts(judged)},
            "AP_by_size": by_size,
            "AP_by_objects": by_crowd,
            "recall_by_overlap": recall,
            "objects": {**size_counts, **crowd_counts, **overlap_counts},
        }


Groups = Tuple[Dict[str, float], Dict[str, int]]


def ap_by_size(truth: Coco, detections: Sequence[dict], limits: Sequence[float]) -> Groups:
    """AP (0 to 100) and number of objects by square root of the box's area, as COCO does it."""
    edges = [ALL_SIZES[0], *limits, ALL_SIZES[1]]
    ranges = list(zip(edges[:-1], edges[1:], strict=True))
    precision = box_precision(truth, detections, ranges)
    sides = np.sqrt([x["area"] for x in _objects(truth)])
    names = _names("size", limits, " px")
    counts = [int(((sides >= low) & (sides <= high)).sum()) for low, high in ranges]
    values = [mean_precision(precision[..., i]) for i in range(len(ranges))]
    return dict(zip(names, values, strict=True)), dict(zip(names, counts, strict=True))


def ap_by_objects(truth: Coco, detections: Sequence[dict], limits: Sequence[float]) -> Groups:
    """AP (0 to 100) on the images of each group of crowding, and their number of objects."""
    counts = _counts(truth)
    group = np.searchsorted(limits, list(counts.values()), side="left")
    group[np.array(list(counts.values())) == 0] = -1
    values, totals = {}, {}
    for i, name in enumerate(_names("objects", limits, step=1)):
        images = [image for image, g in zip(counts, group, strict=True) if g == i]
        totals[name] = sum(counts[image] for image in images)
        values[name] = (
            mean_precision(box_precision(truth, detections, images=images))
            if images
            else float("nan")
        )
    return values, totals


def recall_by_overlap(truth: Coco, judged: JudgedDetections, limits: Sequence[float]) -> Groups:
    """Share of the objects found at IoU 0.5 (0 to 100), and number of objects, by overlap."""
    group = np.searchsorted(limits, largest_overlaps(truth), side="left")
    values, counts = {}, {}
    for i, name in enumerate(_names("overlap", limits)):
        chosen = judged.found[group == i]
        counts[name] = len(chosen)
        values[name] = 100 * float(chosen.mean()) if len(chosen) else float("nan")
    return values, counts


def largest_overlaps(truth: Coco) -> NDArray[np.float64]:
    """(G,) largest IoU of each object with another one of its image, crowds left out."""
    boxes: Dict[int, List[List[float]]] = {image["id"]: [] for image in truth["images"]}
    places: Dict[int, List[int]] = {image["id"]: [] for image in truth["images"]}
    objects = _objects(truth)
    for i, x in enumerate(objects):
        boxes[x["image_id"]].append(x["bbox"])
        places[x["image_id"]].append(i)
    result = np.zeros(len(objects))
    for image, found in boxes.items():
        if len(found) > 1:
            iou = np.asarray(mask_utils.iou(np.array(found), np.array(found), [0] * len(found)))
            np.fill_diagonal(iou, 0)
            result[places[image]] = iou.max(1)
    return result


def _objects(truth: Coco) -> List[dict]:
    return [x for x in truth["annotations"] if not x["iscrowd"]]


def _counts(truth: Coco) -> Dict[int, int]:
    counts = {image["id"]: 0 for image in truth["images"]}
    for x in _objects(truth):
        counts[x["image_id"]] += 1
    return counts


def _thirds(truth: Coco) -> List[int]:
    counts = [n for n in _counts(truth).values() if n]
    limits = {int(np.quantile(counts, q)) for q in (1 / 3, 2 / 3)} if counts else set()
    return sorted(x for x in limits if x < max(counts))


def _names(what: str, limits: Sequence[float], unit: str = "", step: int = 0) -> List[str]:
    """Names of the groups between limits: "size up to 32 px", "size 32 to 96 px", ..."""
    if not limits:
        return [f"any {what}"]
    ranges = [(low + step, high) for low, high in zip(limits, limits[1:], strict=False)]
    inner = [f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in ranges]
    first = f"up to {limits[0]:g}" if limits[0] else "0"
    return [f"{what} {x}{unit}" for x in (first, *inner, f"above {limits[-1]:g}")]
