"""Detectors on the first images of the first test set."""

import time
from contextlib import nullcontext
from typing import Any, ContextManager, NamedTuple, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from torch import nn

from ...data import build_mapper, load_dataset, loader_workers
from ...data.class_names import difference, matching
from ...evaluation.domain_shift import MappedEvaluator, mapping_by_name
from ...evaluation.records import RecordsEvaluator, box_precision, mean_precision
from ...teachers.class_map import known_pairs


class Found(NamedTuple):
    """What a detector reached; nan behind the first rank, and where no image has an object.

    Attributes:
        ap: box AP, 0 to 100.
        without_classes: box AP if all classes were one.
        seconds: that it took.
    """

    ap: float
    without_classes: float
    seconds: float


class FirstImages:
    """The first images of DATASETS.TEST[0], at the size that the student sees in evaluation."""

    def __init__(self, cfg: CfgNode, count: int) -> None:
        """Read the annotations of `count` images."""
        self._cfg, self.name = cfg, cfg.DATASETS.TEST[0]
        records = load_dataset(self.name, "DATASETS.TEST")
        self._records, self.is_whole = records[:count], count >= len(records)
        self._classes = MetadataCatalog.get(self.name).thing_classes
        self.text = (
            f"all {len(records)} images of {self.name!r}" if self.is_whole
            else f"the first {count} of {len(records)} images of {self.name!r}"
        )  # fmt: skip

    def evaluate(
        self,
        detector: nn.Module,
        input_format: str,
        classes: Sequence[str] = (),
        count: int = 0,
        context: ContextManager[Any] | None = None,
        size: Tuple[int, int] | None = None,
    ) -> Found | str:
        """Evaluate a detector; all ranks call it.

        Args:
            detector: in any mode, which it keeps.
            input_format: channel order of its images.
            classes: its names, by which they are compared; () if they are not known.
            count: how many it has, where there are no names; 0 for the data's.
            context: of its forward.
            size: shorter and longest side of its images, px; None for the config's.

        Returns:
            What was found, or why its AP is not known.
        """
        objects = (x for record in self._records for x in record.get("annotations", ()))
        if all(x.get("iscrowd", 0) for x in objects):
            return "none of them has an object"
        ours, names = self._classes, list(classes)
        if not names and count in (0, len(ours)) or _are_alike(ours, names):
            names = ours
        given = known_pairs(self._cfg, classes) if classes else []
        found = zip(ours, matching(ours, names, given), strict=True)
        if missing := [name for name, places in found if not places]:
            has = ", ".join(names[:3]) or f"{count} without names"
            return f"it knows other classes ({has}), not {', '.join(missing[:3])}"
        mapping = mapping_by_name(names, ours, given)
        evaluator, start = MappedEvaluator(self._records, mapping), time.perf_counter()
        with context or nullcontext():
            results = inference_on_dataset(detector, self._loader(input_format, size), evaluator)
        ap = results["bbox"]["AP"] if results else float("nan")
        return Found(ap, _without_classes(evaluator), time.perf_counter() - start)

    def _loader(self, input_format: str, size: Tuple[int, int] | None) -> Any:
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.INPUT.FORMAT = input_format
        if size:
            cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = size
        return build_detection_test_loader(
            dataset=self._records, mapper=build_mapper(cfg, False), num_workers=loader_workers(cfg)
        )


def _are_alike(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return len(ours) == len(theirs) and not difference(ours, theirs)


def _without_classes(evaluator: RecordsEvaluator) -> float:
    truth = {
        **evaluator.truth,
        "annotations": [{**x, "category_id": 0} for x in evaluator.truth["annotations"]],
        "categories": [{"id": 0, "name": "object"}],
    }
    detections = [{**x, "category_id": 0} for x in evaluator.detections]
    return mean_precision(box_precision(truth, detections)[..., 0])
