"""Weights and biases of a quantized graph as integers, with batch norm in them."""

from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LARGEST, _LEVELS = 127, 255
_BIAS_BITS = 30


class Network:
    """A graph's nodes by what they make and read, and its constants."""

    def __init__(self, model: "ModelProto") -> None:
        """Read a model, which `store` and `drop` change."""
        from onnx import numpy_helper

        self.graph = model.graph
        self.made = {name: node for node in self.graph.node for name in node.output}
        self.users: Dict[str, List[NodeProto]] = {}
        for node in self.graph.node:
            for name in _read_by(node):
                self.users.setdefault(name, []).append(node)
        stored = [(x.name, x) for x in self.graph.initializer]
        stored += [
            (node.output[0], x.t)
            for node in self.graph.node
            if node.op_type == "Constant"
            for x in node.attribute
            if x.name == "value"
        ]
        self.values = {name: numpy_helper.to_array(x) for name, x in stored}

    def store(self, name: str, value: np.ndarray) -> str:
        """Add a constant, once."""
        from onnx import numpy_helper

        if name not in self.values:
            self.values[name] = value
            self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def only_user(self, node: "NodeProto", kind: str) -> Optional["NodeProto"]:
        """The node of a kind that alone reads what another one makes, or None."""
        users = self.users.get(node.output[0], [])
        return users[0] if len(users) == 1 and users[0].op_type == kind else None

    def drop_unread(self) -> None:
        """Remove nodes and constants that nothing reads any more."""
        read = {x.name for x in self.graph.output}
        for node in reversed(self.graph.node):
            if read & set(node.output):
                read.update(_read_by(node))
        kept = [x for x in self.graph.node if read & set(x.output)]
        constants = [x for x in self.graph.initializer if x.name in read]
        for field, values in ((self.graph.node, kept), (self.graph.initializer, constants)):
            del field[:]
            field.extend(values)


def _read_by(node: "NodeProto") -> Iterator[str]:
    """Names that a node reads, also within graphs of its own."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read_by(inner)


def store_integers(model: "ModelProto") -> None:
    """Change a model of a `d2kd.quantize` detector in place.

    Each convolution whose input and weight are rounded gets its weight as int8 and its bias as
    int32, in steps of input times weight, as a runtime adds them up. A batch norm behind it, which
    is a factor and a bias of each channel, goes into these steps and the bias: the rounded weights
    stay, or change their sign. A Clip goes where the rounding behind it clips as much.
    """
    network = Network(model)
    for node in [x for x in model.graph.node if x.op_type == "Conv"]:
        rounded, source = (network.made.get(name) for name in (node.input[1], node.input[0]))
        kinds = [x.op_type if x is not None else "" for x in (rounded, source)]
        if kinds == ["DequantizeLinear"] * 2:
            _store(network, node, rounded, source)
    for node in [x for x in model.graph.node if x.op_type == "Clip"]:
        _skip_clip(network, node)
    network.drop_unread()


def _store(network: Network, conv: "NodeProto", rounded: Any, source: Any) -> None:
    weight_name, steps_name, *_ = network.made[rounded.input[0]].input
    weight, steps = network.values[weight_name], network.values[steps_name]
    bias = network.values[conv.input[2]] if len(conv.input) > 2 else np.zeros_like(steps)
    norm = network.only_user(conv, "BatchNormalization")
    name = weight_name
    if norm is not None:
        gain, shift = _of_norm(network, norm)
        weight, steps, bias = weight * _shaped(gain), steps * np.abs(gain), bias * gain + shift
        name = f"{weight_name} {norm.input[1]}"
        conv.output[0] = norm.output[0]
        del norm.output[:]
    step = network.values[source.input[1]]
    least = np.abs(bias) / (step * 2**_BIAS_BITS)
    if (least > steps).any():  # then the weight is one of this input
        name = f"{name} {source.input[1]}"
    steps = np.maximum(steps, least).astype(np.float32)
    steps = np.maximum(steps, np.finfo(np.float32).tiny)
    whole = np.clip(np.rint(weight / _shaped(steps)), -_LARGEST, _LARGEST).astype(np.int8)
    sums = (step * steps).astype(np.float32)
    bias = np.rint(bias / sums).astype(np.int32)
    conv.input[1] = _dequantized(network, name, (whole, steps), conv)
    names = [
        *conv.input[:2],
        _dequantized(network, f"{name} {source.input[1]}", (bias, sums), conv),
    ]
    del conv.input[:]
    conv.input.extend(names)


def _skip_clip(network: Network, clip: "NodeProto") -> None:
    """Let the rounding behind a Clip, as of ReLU6, read what that reads, if nothing changes."""
    rounding = network.only_user(clip, "QuantizeLinear")
    if rounding is None or len(clip.input) < 3:
        return
    step, zero = (network.values[x] for x in rounding.input[1:3])
    low, high = (network.values.get(x) for x in clip.input[1:3])  # each may be left out
    if low is None or high is None:
        return
    if zero + np.rint(low / step) <= 0 and zero + np.rint(high / step) >= _LEVELS:
        rounding.input[0] = clip.input[0]


def _shaped(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1, 1, 1)


def _of_norm(network: Network, norm: "NodeProto") -> Tuple[np.ndarray, np.ndarray]:
    """Factor and bias of each channel."""
    epsilon = next((x.f for x in norm.attribute if x.name == "epsilon"), 1e-5)
    scale, shift, mean, variance = (network.values[x].astype(np.float64) for x in norm.input[1:])
    gain = scale / np.sqrt(variance + epsilon)
    return gain, shift - mean * gain


def _dequantized(
    network: Network, name: str, value: Tuple[np.ndarray, np.ndarray], reader: "NodeProto"
) -> str:
    """The output of a node that multiplies integers with steps, in front of what reads it.

    Each reader has a node of its own: onnxruntime fuses no convolution that shares one.
    """
    from onnx import helper

    kinds = zip(("int", "step"), value, strict=True)
    names = [network.store(f"{name} {kind}", x) for kind, x in kinds]
    output = f"{name} of {reader.output[0]}"
    made = helper.make_node("DequantizeLinear", names, [output], axis=0)
    network.graph.node.insert(list(network.graph.node).index(reader), made)
    return output
