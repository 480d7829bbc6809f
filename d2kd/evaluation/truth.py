"""The objects of a whole data set, with their masks and key points, for COCO's metrics."""

from typing import Any, Dict, List, Sequence

import numpy as np
from detectron2.structures import PolygonMasks
from pycocotools import mask as mask_utils

from .records import Coco, coco_truth


def dataset_truth(records: Sequence[Dict[str, Any]], class_names: Sequence[str]) -> Coco:
    """`coco_truth`, with areas as the data set states them or else of the masks."""
    truth = coco_truth(records, class_names)
    objects = [x for record in records for x in record.get("annotations", ())]
    for annotation, x in zip(truth["annotations"], objects, strict=True):
        if x.get("segmentation"):
            annotation["segmentation"] = x["segmentation"]
        if "area" in x:
            annotation["area"] = x["area"]
        elif x.get("segmentation"):
            annotation["area"] = mask_area(x["segmentation"])
    _add_keypoints(truth["annotations"], objects)
    return truth


def mask_area(segmentation: Any) -> float:
    """Area (px^2) of polygons or of compressed RLE."""
    if isinstance(segmentation, list):
        return float(PolygonMasks([segmentation]).area()[0])
    return float(mask_utils.area(segmentation))


def _add_keypoints(annotations: List[dict], objects: List[Dict[str, Any]]) -> None:
    """Key points as indices of pixels again; objects without them get those that nobody sees."""
    length = max((len(x.get("keypoints", ())) for x in objects), default=0)
    if not length:
        return
    for annotation, x in zip(annotations, objects, strict=True):
        points = np.array(x.get("keypoints") or [0.5, 0.5, 0.0] * (length // 3), float)
        points[0::3] -= 0.5
        points[1::3] -= 0.5
        annotation["keypoints"] = points.tolist()
        annotation["num_keypoints"] = int((points[2::3] > 0).sum())
