"""The classes of data sets and of a model."""

from detectron2.config import CfgNode
from torch import nn

from ..adapters import build_adapter
from ..data import check_datasets
from ..distiller import Distiller
from ..errors import class_count_key
from .build import evaluator_type
from .crowdhuman import evaluated_class


def check_classes(cfg: CfgNode, model: nn.Module, train: bool = True) -> None:
    """Compare the data sets' classes with the model's; see `d2kd.data.check_datasets`.

    Raises:
        ValueError: they differ, a data set is unknown or empty, or CrowdHuman's evaluator finds no
            class "person" in a test set of several.
    """
    detector = model.student if isinstance(model, Distiller) else model
    num_classes = build_adapter(detector).spec().num_classes
    check_datasets(cfg, num_classes, class_count_key(type(detector).__name__), train)
    for name in cfg.DATASETS.TEST:
        if evaluator_type(name) == "crowdhuman":
            evaluated_class(name)
