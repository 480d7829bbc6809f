"""One evaluation of one model."""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any, Dict, Iterable, List, Optional

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import nn

from ..build import student_config
from ..checkpoint import run_checkpoint
from ..checkpoint.address import is_address
from ..checkpoint.weights_file import split_pin
from ..config.loading import load_config, without_pretrained
from ..data import (
    build_mapper,
    dataset_num_classes,
    load_dataset,
    loader_workers,
    register_custom_datasets,
)
from ..data.catalog import load_labelled, require_registered
from ..data.loader import labelled_mapper
from ..data.mapper import Mapper
from ..engine.provenance import describe_run
from ..errors import ConfigError, MissingFileError
from ..evaluation.adversarial import Attack, AttackedDetector
from ..evaluation.corruptions import check_sizes, corrupted_mapper
from ..evaluation.domain_shift import ClassMapping, MappedEvaluator, map_classes
from ..evaluation.groups import ErrorEvaluator
from ..evaluation.records import RecordsEvaluator
from ..evaluation.trained import trained_detector
from .cells import Cell
from .plan import Plan

Results = Dict[str, Dict[str, Any]]


@dataclass
class Subject:
    """A model to evaluate; its detector is built when the first evaluation needs it."""

    name: str
    cfg: CfgNode
    run: Dict[str, Any]
    detector: Optional[nn.Module] = None


def load_subject(plan: Plan, name: str) -> Subject:
    """Read a model's config and register the data sets.

    Raises:
        ConfigError: no weights, an unknown data set, or classes that do not fit.
    """
    model = plan.models[name]
    options = [str(x) for x in model.get("options", ())]
    if os.path.isdir(model["config"]) and "MODEL.WEIGHTS" not in options:
        options += ["MODEL.WEIGHTS", run_checkpoint(model["config"])[0]]
    cfg = load_config(model["config"], options)
    cfg = without_pretrained(student_config(cfg))
    if plan.dataset:
        cfg.DATASETS.TEST = (plan.dataset,)
    cfg.DATASETS.CUSTOM = [*cfg.DATASETS.CUSTOM, *plan.datasets]
    register_custom_datasets(cfg)
    require_registered(cfg, "TEST")
    if not cfg.DATASETS.TEST or not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            f"models: {name}: name a checkpoint in options (MODEL.WEIGHTS), and a data set in the "
            "plan (dataset) or in the config (DATASETS.TEST)."
        )
    weights = split_pin(cfg.MODEL.WEIGHTS)[0]
    if not is_address(weights) and not os.path.isfile(weights):
        raise MissingFileError(f"models: {name}: MODEL.WEIGHTS: no such file: {weights}")
    for cell in plan.cells:
        if cell.kind == "shift":
            class_mapping(cfg, cell)
    return Subject(name, cfg, describe_run(cfg, [cfg.MODEL.WEIGHTS]))


def check_images(plan: Plan, subject: Subject, cells: Iterable[Cell]) -> None:
    """Raise a ConfigError where `cells` have corruptions and an image is too small for them."""
    if any(cell.kind == "corruption" for cell in cells):
        records = load_dataset(subject.cfg.DATASETS.TEST[0], "DATASETS.TEST")
        check_sizes(records[: plan.images or None])


def evaluate_cell(plan: Plan, subject: Subject, cell: Cell) -> Results:
    """One evaluation; the keys and units of the evaluator's results."""
    cfg, detector = subject.cfg, _detector(subject)
    name = cell.options.get("dataset", cfg.DATASETS.TEST[0])
    by_losses = cell.kind == "attack"
    read = partial(load_labelled, cfg) if by_losses else load_dataset
    records = read(name, "DATASETS.TEST")[: plan.images or None]
    names = dataset_class_names(name)
    if cell.kind == "clean":
        return _evaluate(cfg, detector, records, ErrorEvaluator(records, names, **plan.errors))
    if cell.kind == "corruption":
        mapper = corrupted_mapper(cfg, cell.options["corruption"], cell.options["severity"])
        return _evaluate(cfg, detector, records, RecordsEvaluator(records, names), mapper)
    if cell.kind == "shift":
        mapping = class_mapping(cfg, cell)
        results = _evaluate(cfg, detector, records, MappedEvaluator(records, mapping))
        return {**results, "mapping": vars(mapping)}
    options = dict(cell.options)
    records = records[: options.pop("images")]
    attacked = AttackedDetector(detector, Attack(**options)) if options else detector
    evaluator, mapper = RecordsEvaluator(records, names), labelled_mapper(cfg)
    return _evaluate(cfg, attacked, records, evaluator, mapper)


def class_mapping(cfg: CfgNode, cell: Cell) -> ClassMapping:
    """Classes of a model's own test set and of another data set.

    Raises:
        ConfigError: no such data set, or names that do not fit.
    """
    own, other = cfg.DATASETS.TEST[0], cell.options["dataset"]
    try:
        require_registered(CfgNode({"DATASETS": {"TEST": (other,)}}), "TEST")
        return map_classes(
            dataset_class_names(own), dataset_class_names(other), cell.options["classes"]
        )
    except ConfigError as error:
        raise ConfigError(f"{cell.name.replace('-', ': ', 1)}: {error}") from error


def dataset_class_names(dataset: str) -> List[str]:
    """The class names of a registered data set, in the order of its category ids."""
    dataset_num_classes(dataset)
    return list(MetadataCatalog.get(dataset).thing_classes)


def _detector(subject: Subject) -> nn.Module:
    if subject.detector is None:
        subject.detector = trained_detector(subject.cfg, subject.cfg.MODEL.WEIGHTS)
    return subject.detector


def _evaluate(
    cfg: CfgNode,
    detector: nn.Module,
    records: List[dict],
    evaluator: DatasetEvaluator,
    mapper: Optional[Mapper] = None,
) -> Results:
    workers = loader_workers(cfg)
    mapper = mapper or build_mapper(cfg, False)
    loader = build_detection_test_loader(dataset=records, mapper=mapper, num_workers=workers)
    return inference_on_dataset(detector, loader, evaluator)
