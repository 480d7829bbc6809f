"""Evaluation of a published teacher on data of one's own, whose classes are matched by name."""

import logging
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from PIL import Image
from torch import nn

from ..adapters import build_adapter
from ..adapters.padding import square_side
from ..build import student_config
from ..checkpoint import load_detector
from ..config.loading import load_config, without_pretrained
from ..config.naming import construct
from ..config.shortcuts import use_data
from ..data import (
    build_mapper,
    labelled_test_data,
    load_dataset,
    loader_workers,
    register_custom_datasets,
)
from ..errors import ConfigError
from ..evaluation.domain_shift import ClassMapping, MappedEvaluator, mapping_by_name
from ..evaluation.panels import panels
from ..inference.detections import detect
from ..inference.drawings import save_drawing
from ..teachers.classes import teacher_classes
from .provenance import describe_run, write_results

_PICTURES, _THRESHOLD = 4, 0.4


def evaluate_published(
    name: str, options: Sequence[str], data: str, weights: str, folder: Path
) -> Dict[str, Any]:
    """Measure box AP, and draw four images with the labelled objects beside what was found.

    Args:
        name: of a published detector, or another config.
        options: KEY VALUE pairs; images have the size that the detector was trained at otherwise.
        data: folder of a data set, whose "val" or "test" counts; "" for DATASETS.TEST.
        weights: its checkpoint.
        folder: of results.json and of the pictures, 1.png to 4.png: labelled objects on the left,
            detections on the right, those that are right blue, wrong ones red, missed ones dotted.

    Returns:
        COCO's measures of the classes that both have, and "classes", which these are.

    Raises:
        ConfigError: no class in common, or images that the detector would cut off.
    """
    cfg = load_config(name, [*options, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(folder)])
    cfg = without_pretrained(student_config(cfg))
    own = cfg.clone()
    if data:
        use_data(own, Path(data))
    detector = construct(cfg, f"{name}: ").eval()
    names = teacher_classes(name, cfg, weights, build_adapter(detector).spec().num_classes)
    cfg.DATASETS = own.DATASETS
    register_custom_datasets(cfg)
    if not cfg.DATASETS.TEST:
        raise ConfigError("There is nothing to evaluate on: add --data FOLDER.")
    _check_size(cfg, detector)
    load_detector(detector, weights, "--weights")
    records = load_dataset(cfg.DATASETS.TEST[0], "DATASETS.TEST")
    ours = list(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes)
    mapping = mapping_by_name(names or ours, ours, cfg.DISTILL.TEACHER.CLASS_MAP)
    _say(mapping)
    loader = build_detection_test_loader(
        dataset=records, mapper=build_mapper(cfg, False), num_workers=loader_workers(cfg)
    )
    results = inference_on_dataset(detector, loader, MappedEvaluator(records, mapping))
    results["classes"] = {"measured": mapping.classes, "not known": mapping.ignored_dataset}
    write_results(cfg, results, describe_run(cfg, [weights]))
    _draw(cfg, detector, ours, mapping, folder)
    return results


def _check_size(cfg: CfgNode, detector: nn.Module) -> None:
    side = square_side(build_adapter(detector).backbone)
    if 0 < side < cfg.INPUT.MAX_SIZE_TEST:
        raise ConfigError(
            f"INPUT.MAX_SIZE_TEST is {cfg.INPUT.MAX_SIZE_TEST}, but this detector cuts images off "
            f"at its square of {side} px: set it to {side} at most."
        )


def _say(mapping: ClassMapping) -> None:
    left = mapping.ignored_dataset
    if left:
        logging.getLogger(__name__).warning(
            "AP is of the %d classes that the detector knows by name: %s; not of %s.",
            len(mapping.classes), ", ".join(mapping.classes), ", ".join(left),
        )  # fmt: skip


def _draw(
    cfg: CfgNode, detector: nn.Module, ours: List[str], mapping: ClassMapping, folder: Path
) -> None:
    records, mapper = labelled_test_data(cfg)
    places = [ours.index(name) for name in mapping.classes]
    shown = [x for x in records if x["annotations"]][:_PICTURES]
    for number, record in enumerate(map(mapper, shown), 1):
        found = detect(detector, record["image"], _THRESHOLD)
        known = [mapping.detector_to[k] for k in found.pred_classes.tolist()]
        found = found[[k for k, place in enumerate(known) if place >= 0]]
        found.pred_classes = found.pred_classes.new_tensor([places[k] for k in known if k >= 0])
        sides = [x.image for x in panels(record, cfg.INPUT.FORMAT, {"teacher": found}, ours)]
        sheet = Image.new("RGB", (sum(x.width for x in sides), max(x.height for x in sides)))
        for k, side in enumerate(sides):
            sheet.paste(side, (k * side.width, 0))
        save_drawing(folder / f"{number}.png", np.asarray(sheet))
