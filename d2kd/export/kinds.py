"""Which graph a detector has, and the detector made ready for it."""

import copy
from typing import Any, Callable, Dict, Tuple, Type

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from ..adapters import build_adapter
from ..errors import ConfigError
from .base import Graph
from .graph import AllBoxes, Detections
from .options import LIMITS, Options
from .regions import Regions
from .rules import RULES

Graphs = Tuple[Type[Graph], Type[Graph]]
"""With NMS and without."""
_GRAPHS: Dict[Callable[..., Any], Graphs] = {
    **dict.fromkeys(RULES, (Detections, AllBoxes)),
    GeneralizedRCNN.inference: (Regions, Regions),
}
"""By the method that a detector infers with."""


def graph_of(detector: nn.Module, nms: bool = True) -> Type[Graph]:
    """The class of a detector's graph.

    Raises:
        ConfigError: it has none: another detector, or a subclass with an inference of its own.
    """
    cls = type(detector)
    inference = getattr(cls, "forward_inference", getattr(cls, "inference", None))
    if inference not in _GRAPHS:
        raise ConfigError(
            f"{cls.__name__} cannot be exported. RetinaNet, FCOS, ATSS, AutoAssign, DDOD, GFL, "
            "RepPoints and GeneralizedRCNN can, and classes derived from them that do not "
            "override forward_inference or inference."
        )
    return _GRAPHS[inference][not nms]


def build_graph(detector: nn.Module, options: Options) -> Graph:
    """The graph of a detector that `prepare` returned."""
    return graph_of(detector, options.nms)(detector, options).eval()


def prepare(detector: nn.Module, options: Options) -> nn.Module:
    """A copy on the CPU, in eval mode, with the limits of `options`.

    Raises:
        ConfigError: the detector cannot be exported, or not with these options.
    """
    graph = graph_of(detector, options.nms)
    graph.check(detector, options)
    copied = copy.deepcopy(detector).cpu().float().eval().requires_grad_(False)
    for name, attribute in graph.limits.items():
        if getattr(options, name) is not None:
            for module in graph.limited(copied):
                setattr(module, attribute, getattr(options, name))
    padded = padded_size(copied, options.size)
    if padded != tuple(options.size):
        raise ConfigError(
            f"size {tuple(options.size)} is no size that this detector computes on: it pads such "
            f"images to {padded}. Export with that."
        )
    names, classes = len(options.class_names), num_classes(copied)
    if names not in (0, classes):
        raise ConfigError(f"class_names has {names} names, but the detector {classes} classes.")
    return copied


def padded_size(detector: Any, size: Tuple[int, int]) -> Tuple[int, int]:
    """Height and width, px, to which a detector pads an image of this size."""
    images = detector.preprocess_image([{"image": torch.zeros(3, *size)}])
    return tuple(images.tensor.shape[-2:])


def num_classes(detector: nn.Module) -> int:
    """K."""
    return build_adapter(detector).spec().num_classes


def limits_of(detector: nn.Module) -> Dict[str, float]:
    """The detector's own limits, by the names of `LIMITS`."""
    graph = graph_of(detector)
    module = graph.limited(detector)[-1]
    return {name: getattr(module, graph.limits[name]) for name in LIMITS if name in graph.limits}
