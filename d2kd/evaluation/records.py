"""COCO's box metrics on any list of records: part of a data set, or one with other classes."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

ALL_SIZES = (0.0, 1e5)  # px, as COCO
MAX_DETECTIONS = 100  # per image and class

Coco = Dict[str, List[Dict[str, Any]]]
"""COCO's "images", "annotations" and "categories"; see `coco_truth`."""


class RecordsEvaluator(DatasetEvaluator):
    """COCO's AP, AP50 and AP75 of boxes (0 to 100), and AP of each class as "AP-<class>".

    Where the records are a whole data set, its numbers are those of `FastCOCOEvaluator`, but for a
    detector that finds nothing: its AP is 0. A class without objects has AP nan and does not count.
    After `evaluate`, `truth` and `detections` are in COCO's format, images numbered in the order
    of the records.
    """

    def __init__(self, records: Sequence[Dict[str, Any]], class_names: Sequence[str]) -> None:
        """Keep the objects of some images.

        Args:
            records: in Detectron2's format; only these images count.
            class_names: of the category ids 0, 1, ...

        Raises:
            ValueError: there is no record, or an image id twice.
        """
        self.class_names = list(class_names)
        self._ids = {record["image_id"]: i for i, record in enumerate(records)}
        if not records or len(self._ids) < len(records):
            raise ValueError("RecordsEvaluator needs at least one record, and no image id twice.")
        self.truth = coco_truth(records, class_names)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self.detections: List[dict] = []

    def process(self, inputs: List[dict], outputs: List[dict]) -> None:
        """Keep the detections of some images.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances" in px of the original image.
        """
        for x, output in zip(inputs, outputs, strict=True):
            found = boxes_of(output["instances"])
            self.detections += instances_to_coco_json(found, self._ids[x["image_id"]])

    def evaluate(self) -> Dict[str, Dict[str, float]]:
        """Metrics of all ranks' detections, under "bbox"; {} off the main rank."""
        gathered = comm.gather(self.detections, dst=0)
        if not comm.is_main_process():
            return {}
        found = [x for rank in gathered for x in rank]
        self.detections = sorted(found, key=lambda x: x["image_id"])
        return self.analyse()

    def analyse(self) -> Dict[str, Dict[str, float]]:
        """Metrics of `detections`; a subclass adds its own."""
        precision = box_precision(self.truth, self.detections)[..., 0]
        results = {
            "AP": mean_precision(precision),
            "AP50": mean_precision(precision[0]),
            "AP75": mean_precision(precision[5]),
        }
        per_class = {
            f"AP-{name}": mean_precision(precision[..., k])
            for k, name in enumerate(self.class_names)
        }
        return {"bbox": {**results, **per_class}}


def boxes_of(found: Instances) -> Instances:
    """Boxes, classes and scores of detections, on the CPU; no masks."""
    result = Instances(found.image_size)
    for name in ("pred_boxes", "pred_classes", "scores"):
        result.set(name, found.get(name).to("cpu"))
    return result


def coco_truth(records: Sequence[Dict[str, Any]], class_names: Sequence[str]) -> Coco:
    """Records as a COCO dictionary: images numbered from 0, objects from 1, area of the box."""
    images: List[dict] = []
    annotations: List[dict] = []
    for i, record in enumerate(records):
        images.append({"id": i, "height": record["height"], "width": record["width"]})
        for x in record.get("annotations", ()):
            box = BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYWH_ABS)
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "category_id": x["category_id"],
                "bbox": [float(v) for v in box], "area": float(box[2] * box[3]),
                "iscrowd": x.get("iscrowd", 0),
            })  # fmt: skip
    categories = [{"id": k, "name": name} for k, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def box_precision(
    truth: Coco,
    detections: Sequence[dict],
    sizes: Sequence[Tuple[float, float]] = (ALL_SIZES,),
    images: Optional[Sequence[int]] = None,
) -> NDArray[np.float64]:
    """COCO's precision at ten IoU thresholds, 101 recalls, K classes and S ranges of size.

    Args:
        truth: see `coco_truth`.
        detections: dicts with image_id, category_id, bbox (XYWH px) and score.
        sizes: smallest and largest square root of the box's area, px.
        images: ids of the images that count; None for all.

    Returns:
        NDArray: (10, 101, K, S); -1 where a class has no object.
    """
    coco = COCO({"info": {}, **truth})
    # a detection that no image or score can match keeps the library from an empty list
    found = coco.loadRes(list(detections) or [nothing(truth)])
    evaluation = COCOeval_faster(coco, found, "bbox", print_function=lambda *_: None)
    parameters = evaluation.params
    parameters.areaRng = [[low**2, high**2] for low, high in sizes]
    parameters.areaRngLbl = [str(i) for i in range(len(sizes))]
    parameters.maxDets = [MAX_DETECTIONS]
    if images is not None:
        parameters.imgIds = list(images)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., 0]


def nothing(truth: Coco) -> dict:
    """A detection that hits no object and comes behind all others."""
    image, category = truth["images"][0]["id"], truth["categories"][0]["id"]
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [-9.0, -9.0, 1.0, 1.0],
        "score": 0.0,
    }


def mean_precision(precision: NDArray[np.float64]) -> float:
    """Mean (0 to 100) of the entries that are not -1; nan if there are none."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else float("nan")
