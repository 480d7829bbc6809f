"""Evaluation of a published teacher on data of one's own, whose classes are matched by name."""

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from PIL import Image
from torch import nn

from ..adapters import build_adapter
from ..adapters.padding import cuts_at
from ..build import student_config
from ..checkpoint import load_detector
from ..config.loading import load_config, without_pretrained
from ..config.naming import construct
from ..config.shortcuts import use_test_data
from ..data import (
    build_mapper,
    labelled_test_data,
    load_dataset,
    loader_workers,
    register_custom_datasets,
)
from ..data.image_files import is_drawing
from ..errors import ConfigError
from ..evaluation.domain_shift import ClassMapping, MappedEvaluator, mapping_by_name
from ..evaluation.panels import panels
from ..inference.detections import detect
from ..inference.drawings import save_drawing
from ..teachers.classes import detector_classes
from .command_line import import_files
from .provenance import describe_run, write_results
from .run_folder import holds_run

_PICTURES, _THRESHOLD = 4, 0.4


def evaluate_published(args: Namespace, weights: str, folder: Path) -> Dict[str, Any]:
    """Measure box AP, and draw four images with the labelled objects beside what was found.

    Args:
        args: see `d2kd.engine.command_line.argument_parser`; `config_file` is a name, `data` a
            folder whose "val" or "test" counts, where DATASETS.TEST is not among `opts`. Images
            have the size that the detector was tested at where `opts` names no other.
        weights: its checkpoint.
        folder: of results.json and of the pictures, 1.png to 4.png: labelled objects on the left,
            detections on the right, those that are right blue, wrong ones red, missed ones dotted.

    Returns:
        COCO's measures of the classes that both have, and "classes", which these are.

    Raises:
        ConfigError: no class in common, images that the detector would cut off, or a folder that
            holds a run or pictures of somebody else's.
    """
    name = args.config_file
    _check_folder(folder)
    import_files(args.imports)
    cfg = load_config(name, [*args.opts, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(folder)])
    cfg = without_pretrained(student_config(cfg))
    detector = construct(cfg, f"{name}: ").eval()
    count = build_adapter(detector).spec().num_classes
    names = detector_classes(name, cfg, weights, count)
    _use_data(cfg, args)
    _check_size(cfg, detector)
    cfg.MODEL.MASK_ON = False  # boxes are measured, and the data may have no masks
    records = load_dataset(cfg.DATASETS.TEST[0], "DATASETS.TEST")
    ours = list(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes)
    if not names and count != len(ours):
        raise ConfigError(f"{name} has {count} classes without names, the data {len(ours)}.")
    mapping = mapping_by_name(names or ours, ours, cfg.DISTILL.TEACHER.CLASS_MAP)
    _say(mapping, bool(names))
    load_detector(detector, weights, "--weights")
    loader = build_detection_test_loader(
        dataset=records, mapper=build_mapper(cfg, False), num_workers=loader_workers(cfg)
    )
    results = inference_on_dataset(detector, loader, MappedEvaluator(records, mapping))
    results["classes"] = {"measured": mapping.classes, "not known": mapping.ignored_dataset}
    write_results(cfg, results, describe_run(cfg, [weights]))
    _draw(cfg, detector, ours, mapping, folder)
    return results


def _check_folder(folder: Path) -> None:
    if holds_run(folder):
        raise ConfigError(f"{folder} holds a run, which stays as it is: give another --output.")
    for number in range(1, _PICTURES + 1):
        path = folder / f"{number}.png"
        if path.exists() and not is_drawing(path):
            raise ConfigError(f"{path} is no picture of d2kd: give another --output.")


def _use_data(cfg: CfgNode, args: Namespace) -> None:
    """Name the test data of the folder, but for what is typed; the detector keeps its classes."""
    own = cfg.clone()
    if args.data:
        use_test_data(own, Path(args.data))
    if "DATASETS.TEST" in args.opts[::2]:
        own.DATASETS.TEST = cfg.DATASETS.TEST
    cfg.DATASETS = own.DATASETS
    register_custom_datasets(cfg)
    if len(cfg.DATASETS.TEST) != 1:
        raise ConfigError(
            f"DATASETS.TEST is {tuple(cfg.DATASETS.TEST)}: add --data FOLDER, which has a "
            "split val or test, or name one data set."
        )


def _check_size(cfg: CfgNode, detector: nn.Module) -> None:
    if side := cuts_at(build_adapter(detector).backbone, cfg.INPUT.MAX_SIZE_TEST):
        raise ConfigError(
            f"INPUT.MAX_SIZE_TEST is {cfg.INPUT.MAX_SIZE_TEST}, but this detector cuts images off "
            f"at its square of {side} px: set it to {side} at most."
        )


def _say(mapping: ClassMapping, named: bool) -> None:
    left = mapping.ignored_dataset
    if not named:
        logging.getLogger(__name__).warning(
            "The names of the detector's classes are not known: they are taken for the data's, in "
            "order."
        )
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
