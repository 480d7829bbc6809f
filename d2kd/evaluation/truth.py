"""The objects of a whole data set, with their masks and key points, for COCO's metrics."""

from collections import defaultdict, deque
from pathlib import Path
from typing import Any, Deque, Dict, List, Sequence, Tuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager
from pycocotools import mask as mask_utils

from ..data.boxes import is_box
from ..data.coco_json import read_coco
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


def with_stated_areas(name: str, records: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Records with the areas that a data set's json file states for their boxes.

    Detectron2's reader of json files leaves areas out. Objects that have an area keep it; those
    whose box is not in the file are left as they are.

    Args:
        name: of the data set, whose metadata may name a json_file.
        records: in Detectron2's format.
    """
    json_file = MetadataCatalog.get(name).get("json_file", "")
    whole = all("area" in x for record in records for x in record.get("annotations", ()))
    if whole or not json_file or not PathManager.isfile(json_file):
        return records
    areas: Dict[Any, Deque[float]] = defaultdict(deque)
    for x in read_coco(Path(PathManager.get_local_path(json_file)))["annotations"]:
        if type(x.get("area")) in (int, float) and is_box(x.get("bbox"), BoxMode.XYWH_ABS):
            areas[_place(x["image_id"], x["bbox"], BoxMode.XYWH_ABS)].append(x["area"])

    def stated(image_id: Any, x: Dict[str, Any]) -> Dict[str, Any]:
        found = areas[_place(image_id, x["bbox"], x["bbox_mode"])]
        return {"area": found.popleft(), **x} if found else x

    return [
        {**r, "annotations": [stated(r["image_id"], x) for x in r.get("annotations", ())]}
        for r in records
    ]


def _place(image_id: Any, box: Sequence[float], mode: BoxMode) -> Tuple[Any, ...]:
    values = BoxMode.convert([float(x) for x in box], mode, BoxMode.XYWH_ABS)
    return image_id, *(round(x, 3) for x in values)


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
