"""COCO's metrics by faster-coco-eval: the numbers of pycocotools, sooner."""

import itertools
import json
import logging
import os
from typing import List

import numpy as np
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager
from faster_coco_eval import COCO, COCOeval_faster


class FastCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` for boxes and masks; with keypoints it is the stock one.

    Its numbers are those of pycocotools (`use_fast_impl=False`), Detectron2's own fast
    implementation is neither needed nor used.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | None = None) -> None:
        """As `COCOEvaluator`; tasks are found from the predictions, 100 detections an image."""
        super().__init__(dataset_name, output_dir=output_dir, use_fast_impl=False)
        self._fast_coco = COCO(self._coco_api.dataset)

    def _eval_predictions(self, predictions: List[dict], img_ids: List[int] | None = None) -> None:
        results = list(itertools.chain(*(x["instances"] for x in predictions)))
        tasks = self._tasks_from_predictions(results)
        if "keypoints" in tasks or not results or not self._do_evaluation:
            super()._eval_predictions(predictions, img_ids)
            return
        self._to_dataset_classes(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            with PathManager.open(path, "w") as file:
                json.dump(results, file)
        for task in tasks:
            evaluation = self._evaluate_task(results, task, img_ids)
            names = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=names)

    def _to_dataset_classes(self, results: List[dict]) -> None:
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if ids is None:
            return
        classes = {contiguous: original for original, contiguous in ids.items()}
        for result in results:
            if result["category_id"] not in classes:
                raise ValueError(
                    f"The detector predicts class {result['category_id']}, but the data set has "
                    f"{len(classes)}: set the detector's NUM_CLASSES to that."
                )
            result["category_id"] = classes[result["category_id"]]

    def _evaluate_task(
        self, results: List[dict], task: str, img_ids: List[int] | None
    ) -> COCOeval_faster:
        # With a box in it, a result's size is that of the box, not of the mask.
        drop = {"bbox"} if task == "segm" else {"segmentation"}
        results = [{k: v for k, v in x.items() if k not in drop} for x in results]
        report = logging.getLogger("detectron2").info
        found = COCOeval_faster(
            self._fast_coco, self._fast_coco.loadRes(results), task, print_function=report
        )
        if img_ids is not None:
            found.params.imgIds = np.asarray(img_ids)
        found.run()
        return found
