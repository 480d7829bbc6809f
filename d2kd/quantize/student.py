"""A detector that is trained to be INT8: which of its layers round, and where."""

from collections import defaultdict
from typing import Container, Dict, List, NamedTuple, Sequence, Set

import torch
from detectron2.config import CfgNode
from torch import nn

from ..adapters import build_adapter
from ..errors import ConfigError
from .layers import RANGES, QuantizedConv, QuantizedLayer, Range, quantize_layer
from .parts import LAST, part_of
from .tape import Node, record

_SIDE = 256  # px of the image that is recorded
_BEFORE, _BEHIND = RANGES
_CLIPPING = (nn.Identity, nn.ReLU, nn.ReLU6)  # which integers compute


class Place(NamedTuple):
    """A layer, and the range that it gets."""

    layer: str
    range: str


def quantize_student(detector: nn.Module, cfg: CfgNode) -> None:
    """Let a detector's layers round as QUANTIZE says, in place, once they are told to.

    Convolutions round their weights, by channel, and their inputs, by tensor. What comes out of one
    is rounded as well, behind its batch norm, unless one convolution alone reads it, maybe behind
    ReLU, whose input range does it. A convolution that reads nothing but such values, maybe padded,
    does not round them again; behind ReLU or max-pooling it does. Nothing changes where
    QUANTIZE.ENABLED is False.

    Raises:
        ConfigError: the detector has no layer that can be quantized, or is quantized already.
    """
    if not cfg.QUANTIZE.ENABLED:
        return
    if is_quantized(detector):
        raise ConfigError("QUANTIZE.ENABLED: this detector is quantized already.")
    nodes = recorded(detector)
    chosen = chosen_layers(detector, nodes, cfg.QUANTIZE.FLOAT)
    if not chosen:
        raise ConfigError(
            f"QUANTIZE.ENABLED: {type(detector).__name__} has no convolution to quantize beside "
            f"QUANTIZE.FLOAT {tuple(cfg.QUANTIZE.FLOAT)}: set it to False, or name fewer parts."
        )
    behind = places_behind(detector, nodes, chosen)
    places: Dict[str, List[str]] = {name: [] for name in chosen}
    for name in sorted({*chosen} - fed_by(nodes, behind)):
        places[name].append(_BEFORE)
    for layer, name in dict.fromkeys(behind.values()):
        places.setdefault(layer, []).append(name)
    for layer, ranges in places.items():
        quantize_layer(detector.get_submodule(layer), ranges)


def is_quantized(detector: nn.Module) -> bool:
    """Whether `quantize_student` changed it."""
    return any(isinstance(x, QuantizedLayer) for x in detector.modules())


def quantized_convolutions(detector: nn.Module) -> List[str]:
    """Names of the convolutions that round."""
    return [name for name, x in detector.named_modules() if isinstance(x, QuantizedConv)]


def set_rounding(detector: nn.Module, on: bool) -> None:
    """Let all layers that `quantize_student` changed round, or none."""
    for layer in detector.modules():
        if isinstance(layer, QuantizedLayer):
            layer.rounds = on


def fix_ranges(detector: nn.Module) -> None:
    """Let the ranges of a detector's layers and weights be constants, for a graph of it."""
    for layer in detector.modules():
        if isinstance(layer, (QuantizedConv, Range)):
            layer.fix()


def rounds(detector: nn.Module) -> bool:
    """Whether a detector's layers round."""
    return any(isinstance(x, QuantizedLayer) and x.rounds for x in detector.modules())


def recorded(detector: nn.Module) -> List[Node]:
    """What a detector computes of one image: backbone and dense head, or RPN."""
    adapter = build_adapter(detector)
    image = torch.zeros(3, _SIDE, _SIDE)
    images = adapter.preprocess([{"image": image}], adapter.divisor)
    need = frozenset({"features", "logits", "rpn"}) & adapter.provides
    return record(detector, lambda: adapter(images, None, need).features)


def chosen_layers(detector: nn.Module, nodes: Sequence[Node], left: Sequence[str]) -> List[str]:
    """Names of the convolutions that are called and are in none of the parts `left`."""
    followed = _followed(nodes)
    names = {x.owner: None for x in nodes if x.is_convolution}
    parts = {x: part_of(f"{x}.weight") if x in followed else LAST for x in names}
    layers = ((x, detector.get_submodule(x)) for x in names if parts[x] not in left)
    return [name for name, layer in layers if isinstance(layer, nn.Conv2d)]


def _followed(nodes: Sequence[Node]) -> Set[str]:
    """Names of the convolutions that others follow."""
    leads: Dict[Node, bool] = defaultdict(bool)
    for node in reversed(nodes):
        leads[node] = any(user.is_convolution or leads[user] for user in node.users)
    return {node.owner for node in nodes if node.is_convolution and leads[node]}


def places_behind(
    detector: nn.Module, nodes: Sequence[Node], chosen: Sequence[str]
) -> Dict[str, Place]:
    """Where what comes out of the chosen convolutions is rounded, of those that need it."""
    calls = [x for x in nodes if x.is_convolution and x.owner in chosen]
    ends = [(node, _behind_norm(node)) for node in calls]
    return {
        node.owner: _place(detector, node, last)
        for node, last in ends
        if not _goes_to_one(last, chosen)
    }


def fed_by(nodes: Sequence[Node], rounded: Container[str]) -> Set[str]:
    """Names of the convolutions that read nothing but what comes rounded out of others."""
    calls = [x for x in nodes if x.is_convolution]
    fed: Set[Node] = set()
    for node in calls:
        rest = [_behind_norm(node)] if node.owner in rounded else []
        while rest:
            users = rest.pop().users
            fed.update(x for x in users if x.is_convolution)
            rest += [x for x in users if x.pads]
    return {x.owner for x in calls} - {x.owner for x in calls if x not in fed}


def _behind_norm(node: Node) -> Node:
    only = node.users[0] if len(node.users) == 1 else node
    return only if only.normalizes else node


def _goes_to_one(node: Node, chosen: Sequence[str]) -> bool:
    users = node.users
    while len(users) == 1 and users[0].passes:
        users = users[0].users
    readers = {(x.owner, x.is_convolution) for x in users}
    return len(readers) == 1 and all(conv and name in chosen for name, conv in readers)


def _place(detector: nn.Module, conv: Node, last: Node) -> Place:
    """Behind a convolution with its norm, in front of an activation that integers lack."""
    inner = f"{conv.owner}.norm"
    if last.owner.startswith(conv.owner):
        others = [x.owner for x in conv.users if x.owner.startswith(inner)]
        return Place(inner, _BEFORE) if others and last is conv else Place(conv.owner, _BEHIND)
    act = getattr(detector.get_submodule(last.owner), "act", nn.Identity())
    if isinstance(act, _CLIPPING):
        return Place(last.owner, _BEHIND)
    return Place(f"{last.owner}.act", _BEFORE)
