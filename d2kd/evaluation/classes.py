"""The classes of data sets, of a model and of its teachers."""

import logging
from typing import Tuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from ..adapters import build_adapter
from ..data import check_datasets
from ..data.class_names import difference, is_reordered, recorded_classes
from ..distiller import Distiller
from ..errors import ConfigError, class_count_key
from ..teachers import TokenLearner
from ..teachers.build_tokens import check_data
from ..teachers.class_map import same_classes
from .build import evaluator_type
from .crowdhuman import evaluated_class

_MEND = "Give the categories in the data's json file the ids of that order"


def check_classes(cfg: CfgNode, model: nn.Module, train: bool = True) -> None:
    """Compare the data sets' classes with the model's and with its teachers'.

    Raises:
        ValueError: they differ, see `d2kd.data.check_datasets` and `check_teachers`; a data set is
            unknown or empty; or CrowdHuman's evaluator finds no class "person" in a test set of
            several.
    """
    num_classes, key = class_count(model)
    if isinstance(model, TokenLearner):
        check_data(cfg, num_classes)
        return check_datasets(cfg, num_classes, key)
    check_datasets(cfg, num_classes, key, train)
    for name in cfg.DATASETS.TEST:
        if evaluator_type(name) == "crowdhuman":
            evaluated_class(name)
    if isinstance(model, Distiller):
        check_teachers(cfg, model)
    if train:
        _warn_of_start(cfg)


def class_count(model: nn.Module) -> Tuple[int, str]:
    """How many classes a trained model has, and the config key that says so."""
    if isinstance(model, TokenLearner):
        return model.num_classes, "DISTILL.TEACHER"
    detector = model.student if isinstance(model, Distiller) else model
    key = class_count_key(type(detector).__name__)
    return build_adapter(detector).spec().num_classes, key


def check_teachers(cfg: CfgNode, model: Distiller) -> None:
    """Warn where the training data's classes are not those of a teacher, if these are known.

    Those of methods that compare class by class are matched; see `d2kd.teachers.class_map`.
    """
    data = cfg.DATASETS.TRAIN[0]
    ours = MetadataCatalog.get(data).thing_classes
    for index, teacher in enumerate(model.teachers):
        found = difference(ours, teacher.classes)
        if not found or index in model.class_maps or same_classes(cfg, teacher):
            continue
        text = (
            f"{len(found)} of {len(ours)} classes of {data!r} are not those of teacher {index} "
            f"({cfg.DISTILL.TEACHER.CONFIG_FILES[index]}), in order ({found[0]})"
        )
        readers = model.panel.teachers_of
        heads = [name for name in model.heads if index in readers[name]]
        logging.getLogger(__name__).warning(
            "%s. %s reads no classes and goes on; check that this is the right teacher.",
            text, ", ".join(heads) or "No method",
        )  # fmt: skip


def _warn_of_start(cfg: CfgNode) -> None:
    """A training may start from weights of other classes, but hardly means to of the same count."""
    data = cfg.DATASETS.TRAIN[0]
    ours = MetadataCatalog.get(data).thing_classes
    if found := difference(ours, recorded_classes(cfg.MODEL.WEIGHTS)):
        logging.getLogger(__name__).warning(
            "%d of %d classes of %r are not those that MODEL.WEIGHTS %s was trained on, in order "
            "(%s): its class predictions have to be learnt anew.",
            len(found), len(ours), data, cfg.MODEL.WEIGHTS, found[0],
        )  # fmt: skip


def check_recorded_classes(cfg: CfgNode, weights: str) -> None:
    """Compare the names of the test data's classes with those that `weights` were trained on.

    They are known where a run.json is beside the file. Other names at the same places are a
    warning: they may mean the same.

    Raises:
        ConfigError: the same names are in another order, so every AP would be wrong.
    """
    recorded = recorded_classes(weights)
    for name in cfg.DATASETS.TEST:
        ours = MetadataCatalog.get(name).thing_classes
        if not (found := difference(ours, recorded)):
            continue
        text = (
            f"{len(found)} of {len(ours)} classes of {name!r} are not those that {weights} was "
            f"trained on, in order ({found[0]})"
        )
        if is_reordered(ours, recorded):
            raise ConfigError(f"{text}. {_MEND}: {', '.join(recorded)[:500]}.")
        logging.getLogger(__name__).warning("%s. AP counts them as the same.", text)
