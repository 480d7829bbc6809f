"""INT8 after training: onnxruntime's static quantization of what is safe to quantize.

Quantized are convolutions, linear layers and what lies between them. What is behind the last of
them stays float: GFL's distribution integral, box decoding, scores, NMS. So do parts of the network
that change the detections too much, alone or together.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Sequence, Set, Tuple

import numpy as np

from ..errors import ConfigError
from ..quantize.parts import LAST, TRUNK, part_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Agreement = Callable[["ModelProto"], float]
"""How much the detections of another model are those of the float one, 0 to 1."""

LEAST = 0.8  # agreement of a part that is quantized
_WEIGHTED = ("Conv", "Gemm")
_BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "HardSigmoid", "HardSwish",
            "MaxPool", "Mul", "Relu", "Resize", "Sigmoid")  # fmt: skip
_PASSED = (*_BETWEEN, "InstanceNormalization", "GroupNormalization", "Reshape", "Flatten", "Pad")
ALL = "the file"


class Part(NamedTuple):
    """A part of the network, and what its quantization alone does.

    Attributes:
        name: "trunk", "pyramid", "heads" or `LAST`, those that predict; "layers", if they have lost
            their names; `ALL`, all that are quantized together.
        layers: convolutions and linear layers.
        agreement: see `Agreement`, with this part in INT8 and all others in float.
        quantized: whether it is in the file.
    """

    name: str
    layers: int
    agreement: float
    quantized: bool


def quantize(
    model: "ModelProto", images: Sequence[np.ndarray], agreement: Agreement
) -> Tuple["ModelProto", List[Part]]:
    """Quantize a model to INT8: weights by channel, activations unsigned by tensor.

    Args:
        model: float32, with one input; not changed.
        images: what that takes, to calibrate the ranges of activations on.
        agreement: measures a quantized model.

    Returns:
        The model, with its metadata, and what was found of each part.

    Raises:
        ConfigError: there is nothing to quantize, or nothing that keeps the detections.
    """
    with tempfile.TemporaryDirectory() as name:
        prepared, ranges = _prepare(model, images, Path(name))
    parts = parts_of(prepared)
    if not parts:
        raise ConfigError("--int8: this detector has no convolution to quantize.")
    found = []
    for part, nodes in parts.items():
        share = agreement(_quantized(prepared, ranges, nodes))
        layers = sum(kind in _WEIGHTED for _, kind in nodes)
        found.append(Part(part, layers, share, share >= LEAST))
    if not any(part.quantized for part in found):
        shares = ", ".join(f"{x.name} {x.agreement:.1%}" for x in found)
        raise ConfigError(
            f"--int8: each part of this detector changes its detections too much ({shares} stay): "
            "give --calibrate FOLDER with the device's images, or train with QUANTIZE.ENABLED True"
        )
    made, found = _together(prepared, ranges, parts, found, agreement)
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    return made, found


def _together(
    model: "ModelProto",
    ranges: Any,
    parts: Dict[str, List[Tuple[str, str]]],
    found: Sequence[Part],
    agreement: Agreement,
) -> Tuple["ModelProto", List[Part]]:
    """The model with these parts in INT8, less the worst of them until they agree together."""
    chosen = [part for part in found if part.quantized]
    made = _quantized(model, ranges, [x for part in chosen for x in parts[part.name]])
    share = agreement(made)
    if share >= LEAST or len(chosen) == 1:
        layers = sum(part.layers for part in chosen)
        return made, [*found, Part(ALL, layers, share, True)]
    worst = min(chosen, key=lambda part: part.agreement)
    rest = [x._replace(quantized=x.quantized and x is not worst) for x in found]
    return _together(model, ranges, parts, rest, agreement)


def _prepare(
    model: "ModelProto", images: Sequence[np.ndarray], folder: Path
) -> Tuple["ModelProto", Any]:
    """The model with batch norm folded and names for all nodes, and the ranges of its tensors."""
    import onnx
    from onnxruntime.quantization.calibrate import create_calibrator
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, target = folder / "float.onnx", folder / "prepared.onnx"
    onnx.save(model, source)
    quant_pre_process(source, target, skip_symbolic_shape=True)
    prepared = onnx.load(target)
    for number, node in enumerate(prepared.graph.node):
        node.name = f"{number}_{node.op_type}"
    onnx.save(prepared, target)
    calibrator = create_calibrator(target, [*_WEIGHTED, *_BETWEEN], str(folder / "augmented.onnx"))
    calibrator.collect_data(_reader(prepared.graph.input[0].name, images))
    return prepared, calibrator.compute_data()


def _reader(name: str, images: Sequence[np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        rest = ({name: image} for image in images)

        def get_next(self) -> Any:
            return next(self.rest, None)

    return Reader()


def _quantized(model: "ModelProto", ranges: Any, nodes: Sequence[Tuple[str, str]]) -> "ModelProto":
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    names, kinds = [name for name, _ in nodes], sorted({kind for _, kind in nodes})
    types = QuantType.QInt8, QuantType.QUInt8
    quantizer = QDQQuantizer(copied, True, False, *types, ranges, names, [], kinds, {})
    quantizer.quantize_model()
    made: ModelProto = quantizer.model.model
    return made


def parts_of(model: "ModelProto") -> Dict[str, List[Tuple[str, str]]]:
    """Nodes to quantize, (name, operator), by the part that they are in."""
    made = {output: node for node in model.graph.node for output in node.output}
    inner, not_last = _between_weighted(model.graph.node, made)
    owner: Dict[str, str] = {}
    found: Dict[str, List[Tuple[str, str]]] = {}
    for node in model.graph.node:
        if node.op_type in _WEIGHTED:
            part = part_of(node.input[1]) if node.name in not_last else LAST
        else:
            part = next((owner[x] for x in node.input if x in owner), TRUNK)
        owner.update(dict.fromkeys(node.output, part))
        if node.name in inner:
            found.setdefault(part, []).append((node.name, node.op_type))
    return found


def _between_weighted(
    nodes: Sequence["NodeProto"], made: Dict[str, "NodeProto"]
) -> Tuple[Set[str], Set[str]]:
    """Names of layers and of what leads from one to another; and of layers that others follow."""
    inner = {x.name for x in nodes if x.op_type in _WEIGHTED}
    seen: Set[str] = set()
    followed: Set[str] = set()
    rest = [node.input[0] for node in nodes if node.op_type in _WEIGHTED]
    while rest:
        node = made.get(rest.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in _WEIGHTED:
            followed.add(node.name)
        elif node.op_type in _PASSED:
            rest += node.input
            inner |= {node.name} if node.op_type in _BETWEEN else set()
    return inner, followed


def table_of(measured: Sequence[Dict[str, Any]]) -> List[str]:
    """The "int8" of a description, in lines."""
    parts = [Part(**x) for x in measured]
    widest = max(len(part.name) for part in parts)
    lines = [f"{'part'.ljust(widest)}  layers  same detections with it alone in INT8"]
    for part in parts:
        stays = "stays float" if part.agreement < LEAST else "stays float beside the others"
        word = "INT8" if part.quantized else stays
        word = "all these together" if part.name == ALL else word
        lines.append(f"{part.name.ljust(widest)}  {part.layers:>6}  {part.agreement:.1%}, {word}")
    return lines
