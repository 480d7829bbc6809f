"""COCO's metrics by faster-coco-eval: the numbers of pycocotools, sooner."""

import contextlib
import io
import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import coco as pycocotools
from pycocotools.cocoeval import COCOeval

from ..data import load_dataset
from ..errors import ConfigError
from ..file_io import read_json
from .best_f1 import TASK, best_f1
from .records import Coco
from .truth import dataset_truth, with_stated_areas


class FastCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` whose objects are the data set's records, as training reads them.

    Its numbers are those of pycocotools (`use_fast_impl=False`); Detectron2's own fast
    implementation is neither needed nor used. `best_f1` is among its results.

    Images, objects and classes have numbers of their own here, and in `truth`; in
    coco_instances_results.json they have the ids of the data set's json file.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None = None,
        kpt_oks_sigmas: Sequence[float] = (),
    ) -> None:
        """Read the data set; tasks are found from the predictions, 100 detections an image.

        Args:
            dataset_name: in `DatasetCatalog`.
            output_dir: folder for the detections; None writes none.
            kpt_oks_sigmas: COCO's sigmas of the key points; those of COCO's persons by default.
        """
        # The constructor of `COCOEvaluator` would read the json file again, in another way.
        self._logger = logging.getLogger(__name__)
        self._distributed, self._cpu_device = True, torch.device("cpu")
        self._output_dir, self._kpt_oks_sigmas = output_dir, kpt_oks_sigmas
        records = load_dataset(dataset_name, "DATASETS.TEST", masks="any")
        records = with_stated_areas(dataset_name, records)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._numbers = {x["image_id"]: i for i, x in enumerate(records)}
        self.truth = dataset_truth(records, self._metadata.thing_classes)
        self._fast_coco = COCO({"info": {}, **self.truth})

    def _eval_predictions(self, predictions: List[dict], img_ids: List[Any] | None = None) -> None:
        results = list(itertools.chain(*(x["instances"] for x in predictions)))
        self._write(results)
        numbered = [{**x, "image_id": self._numbers[x["image_id"]]} for x in results]
        images = None if img_ids is None else [self._numbers[x] for x in img_ids]
        for task in self._tasks_from_predictions(results):
            evaluation = self._evaluate_task(numbered, task, images) if results else None
            names = self._metadata.thing_classes
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=names)
        point = best_f1(self.truth, numbered) if images is None else {}
        if point:
            self._results[TASK] = point

    def read(self, path: Path) -> List[dict]:
        """The boxes of a coco_instances_results.json, numbered as `truth` is.

        Raises:
            ConfigError: the file is missing or no json.
            LookupError: its images or classes are not those of the data set.
        """
        classes = {k: i for i, k in self._class_ids().items()}
        return [
            {"image_id": self._numbers[x["image_id"]], "category_id": classes[x["category_id"]],
             "bbox": x["bbox"], "score": x["score"]}
            for x in read_json(path)
        ]  # fmt: skip

    def _class_ids(self) -> Dict[int, Any]:
        """Number of a class -> its id in the data set's file."""
        names = self._metadata.thing_classes
        numbers = self._metadata.get("thing_dataset_id_to_contiguous_id")
        return {i: k for k, i in numbers.items()} if numbers else {i: i for i in range(len(names))}

    def _write(self, results: List[dict]) -> None:
        """Write the detections with the ids of the data set's file."""
        classes, names = self._class_ids(), self._metadata.thing_classes
        for result in results:
            if result["category_id"] not in classes:
                raise ValueError(
                    f"The detector predicts class {result['category_id']}, but the data set has "
                    f"{len(names)}: set the detector's NUM_CLASSES to that."
                )
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            found = [{**x, "category_id": classes[x["category_id"]]} for x in results]
            with PathManager.open(path, "w") as file:
                json.dump(found, file)

    def _evaluate_task(
        self, results: List[dict], task: str, img_ids: List[int] | None
    ) -> COCOeval | COCOeval_faster:
        # With a box in it, a result's size is that of the box, not of the mask.
        drop = {"bbox"} if task == "segm" else {"segmentation"}
        results = [{k: v for k, v in x.items() if k not in drop} for x in results]
        if task == "keypoints":
            return self._evaluate_keypoints(results, img_ids)
        if task == "segm":
            _require_masks(self.truth)
        report = logging.getLogger("detectron2").info
        found = COCOeval_faster(
            self._fast_coco, self._fast_coco.loadRes(results), task, print_function=report
        )
        if img_ids is not None:
            found.params.imgIds = np.asarray(img_ids)
        found.run()
        return found

    def _evaluate_keypoints(self, results: List[dict], img_ids: List[int] | None) -> COCOeval:
        """By pycocotools itself."""
        truth = pycocotools.COCO()
        truth.dataset = {"info": {}, **self.truth}
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            found = COCOeval(truth, truth.loadRes(results), "keypoints")
        if self._kpt_oks_sigmas:
            found.params.kpt_oks_sigmas = np.array(self._kpt_oks_sigmas)
        if img_ids is not None:
            found.params.imgIds = img_ids
        _require_sigmas(self.truth, results, len(found.params.kpt_oks_sigmas))
        found.evaluate()
        found.accumulate()
        found.summarize()
        return found


def _require_masks(truth: Coco) -> None:
    without = sum("segmentation" not in x for x in truth["annotations"])
    if without:
        raise ConfigError(
            f"DATASETS.TEST: {without:,} objects without a mask, so masks cannot be evaluated; "
            "d2kd data lists them."
        )


def _require_sigmas(truth: Coco, results: List[dict], sigmas: int) -> None:
    counts = {len(x.get("keypoints", ())) // 3 for x in (*truth["annotations"], *results)}
    if counts != {sigmas}:
        raise ConfigError(
            f"Objects and detections have {sorted(counts)} key points, and there are {sigmas} "
            "sigmas: set TEST.KEYPOINT_OKS_SIGMAS, one for each key point."
        )
