"""Detectron2's evaluator for CrowdHuman's three numbers."""

import logging
from typing import Any, Dict, List, Tuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm

from ..data import dataset_num_classes, load_dataset
from .crowd_metrics import (
    JI_THRESHOLDS,
    ImageRecord,
    average_precision,
    image_record,
    jaccard_index,
)


class CrowdHumanEvaluator(DatasetEvaluator):
    """AP, MR^-2 and JI (0 to 100) of one class, crowd annotations being ignore regions.

    Numbers are those of CrowdHuman's tools (arXiv 1805.00123); see `crowd_metrics`. Each image is
    compared once, where it was detected; ranks exchange records, not boxes. Only the images that
    were processed count, also in the false positives per image.
    """

    def __init__(self, dataset_name: str, class_name: str = "person") -> None:
        """Read the objects of a registered data set.

        Args:
            dataset_name: in `DatasetCatalog`.
            class_name: the class to evaluate; a data set of one class is taken as it is.

        Raises:
            ValueError: the data set has no such class, or no annotations.
        """
        records = load_dataset(dataset_name, "DATASETS.TEST")
        self.class_id = evaluated_class(dataset_name, class_name)
        self.name = dataset_name
        self._truth = {x["image_id"]: _truth(x, self.class_id) for x in records}
        if not any(len(objects) for objects, *_ in self._truth.values()):
            raise ValueError(
                f"DATASETS.TEST: {dataset_name!r} has no annotated {class_name!r}; CrowdHuman's "
                "evaluator has nothing to compare with."
            )
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._records: Dict[Any, ImageRecord] = {}

    def process(self, inputs: List[dict], outputs: List[dict]) -> None:
        """Compare the detections of some images with their objects.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances" in px of the original image.

        Raises:
            ValueError: an image that the data set does not have.
        """
        for x, output in zip(inputs, outputs, strict=True):
            if x["image_id"] not in self._truth:
                raise ValueError(f"{self.name!r} has no image {x['image_id']!r}.")
            found = output["instances"].to("cpu")
            found = found[found.pred_classes == self.class_id]
            boxes, scores = found.pred_boxes.tensor.numpy(), found.scores.numpy()
            self._records[x["image_id"]] = image_record(boxes, scores, *self._truth[x["image_id"]])

    def evaluate(self) -> Dict[str, Dict[str, float]]:
        """Numbers of all ranks' images, under "bbox"; {} off the main rank.

        Raises:
            ValueError: no image was processed.
        """
        gathered = comm.gather(self._records, dst=0)
        if not comm.is_main_process():
            return {}
        merged = {key: record for rank in gathered for key, record in rank.items()}
        records = [merged[key] for key in self._truth if key in merged]
        if not records:
            raise ValueError(f"no image of {self.name!r} was processed.")
        logger = logging.getLogger(__name__)
        if len(records) < len(self._truth):
            logger.warning("%d of %d images were processed.", len(records), len(self._truth))
        ap, miss_rate = average_precision(records)
        jaccard = jaccard_index(records)
        best = int(np.argmax(jaccard))
        results = {"AP": 100 * ap, "MR": 100 * miss_rate, "JI": 100 * jaccard[best]}
        logger.info("CrowdHuman: %s, JI at score %.1f", results, JI_THRESHOLDS[best])
        return {"bbox": {**results, "JI-score": JI_THRESHOLDS[best]}}


def evaluated_class(dataset_name: str, class_name: str = "person") -> int:
    """Index of the class that is evaluated; see `CrowdHumanEvaluator`."""
    if dataset_num_classes(dataset_name) == 1:
        return 0
    classes = MetadataCatalog.get(dataset_name).thing_classes
    if class_name not in classes:
        raise ValueError(
            f"DATASETS.TEST: {dataset_name!r} has no class {class_name!r}, which CrowdHuman's "
            f"evaluator needs; it has {', '.join(classes[:10])}."
        )
    return classes.index(class_name)


def _truth(record: dict, class_id: int) -> Tuple[np.ndarray, np.ndarray, Tuple[int, int]]:
    """Objects and ignore regions, (n, 4) XYXY px, and the image's height and width."""
    boxes: Dict[bool, List[List[float]]] = {False: [], True: []}
    for x in record.get("annotations", []):
        if x["category_id"] == class_id:
            box = BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYXY_ABS)
            boxes[bool(x.get("iscrowd", 0))].append(box)
    objects, ignore = (np.array(boxes[key], np.float64).reshape(-1, 4) for key in (False, True))
    return objects, ignore, (record["height"], record["width"])
