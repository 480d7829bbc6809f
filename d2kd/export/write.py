"""Writing a detector as ONNX or as a torch.export program."""

import contextlib
import importlib
import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, Tuple

import torch
from detectron2.export import TracingAdapter
from torch import nn
from torch.export import Dim, ExportedProgram

from ..errors import ConfigError
from ..file_io import write_atomically
from ..quantize import fix_ranges, rounds
from .base import Graph
from .description import describe, to_strings
from .half import halve_weights
from .integers import store_integers
from .kinds import build_graph, prepare
from .options import Options

if TYPE_CHECKING:
    from onnx import ModelProto

ENTRY = "d2kd.json"
"""Name of the description in a .pt2 archive."""
_TRACED_OPSET, _SIDES = 18, 8


def export_onnx(detector: nn.Module, path: str | Path, **options: Any) -> Dict[str, Any]:
    """Write a detector as one ONNX file that needs neither d2kd nor torch.

    The graph takes "image", (1, 3, H, W) float32 in 0..255, and normalizes it. With NMS it returns
    "boxes" (N, 4) XYXY px, "scores" (N,) and "classes" (N,), best first, and "masks" of a detector
    that has them; without, "boxes" (A, 4) and "scores" (A, K) of all levels. The description is in
    the file's metadata, as JSON values.

    Args:
        detector: one that `graph_of` knows; it is copied and not changed.
        path: of the file to write; its folder must exist.
        options: see `Options`.

    Returns:
        Dict: the description, see docs/guide/export.md.

    Raises:
        ConfigError: the detector or an option cannot work, or a package is missing.
        OSError: the file cannot be written.
    """
    model, description = to_onnx(detector, **options)
    write_atomically(Path(path), lambda file: file.write_bytes(model.SerializeToString()))
    return description


def to_onnx(detector: nn.Module, **options: Any) -> Tuple["ModelProto", Dict[str, Any]]:
    """The model of `export_onnx`, and its description."""
    require("onnxscript", "onnx")
    import onnx

    graph = _prepared(detector, Options(**options))
    with _quiet(), torch.no_grad():
        model = _by_tracing(graph) if graph.traced else _by_export(graph)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # paths of this machine
    description = describe(graph)
    onnx.helper.set_model_props(model, to_strings(description))
    if graph.options.fp16:
        halve_weights(model)
    if rounds(graph.detector):
        store_integers(model)
    return model, description


def _by_export(graph: Graph) -> "ModelProto":
    program = torch.onnx.export(
        _exported(graph),
        dynamo=True,
        verbose=False,
        input_names=["image"],
        output_names=list(graph.names),
    )
    assert program is not None  # it is with `dynamo=False`
    return program.model_proto


def _by_tracing(graph: Graph) -> "ModelProto":
    """The graph as Detectron2's helper makes it traceable; it has what depends on proposals."""
    import onnx

    image, buffer = _example(graph), io.BytesIO()
    torch.onnx.export(
        TracingAdapter(graph, image).eval(),
        (image,),
        buffer,  # type: ignore[arg-type]  # written to, without `dynamo`
        dynamo=False,
        opset_version=_TRACED_OPSET,
        input_names=["image"],
        output_names=list(graph.names),
        dynamic_axes={name: {0: "detections"} for name in graph.names},
    )
    return onnx.load_from_string(buffer.getvalue())


def export_pt2(detector: nn.Module, path: str | Path, **options: Any) -> Dict[str, Any]:
    """Write a dense detector as a torch.export program, for torch and torchvision alone.

    Input, outputs, arguments and errors are those of `export_onnx`. The description is the JSON
    file `d2kd.json` in the archive.
    """
    graph = _prepared(detector, Options(**options))
    if graph.traced:
        raise ConfigError(
            f"{type(detector).__name__} cannot be a .pt2 file, since torch.export does not take "
            "its choice of proposals: end the name with .onnx."
        )
    if graph.options.fp16:
        raise ConfigError("fp16 (--fp16) is for .onnx and .xml files; a .pt2 file has float32.")
    description, buffer = {**describe(graph), "least": _least(graph)}, io.BytesIO()
    with _quiet():
        extra = {ENTRY: json.dumps(description)}
        torch.export.save(_exported(graph), buffer, extra_files=extra)
    write_atomically(Path(path), lambda file: file.write_bytes(buffer.getvalue()))
    return description


def _least(graph: Graph) -> int:
    """Shortest side, px, of an image of any size: torch.export takes no map whose side is 1."""
    if not graph.options.dynamic_size:
        return 1
    detector = graph.detector
    shapes, multiple = detector.backbone.output_shape(), max(detector.backbone.size_divisibility, 1)
    return (max(shapes[x].stride for x in detector.head_in_features) // multiple + 1) * multiple


def require(*packages: str) -> None:
    """Raise a ConfigError that says how to install what is missing."""
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            extra = "openvino" if name == "openvino" else "export"
            raise ConfigError(
                f"Exporting needs {name} ({error}). Install it with: pip install 'd2kd[{extra}]'"
            ) from None


def _prepared(detector: nn.Module, options: Options) -> Graph:
    if rounds(detector) and options.fp16:
        raise ConfigError("fp16 (--fp16) is not for a quantized run, whose file has INT8.")
    prepared = prepare(detector, options)
    fix_ranges(prepared)
    return build_graph(prepared, options)


def _example(graph: Graph) -> torch.Tensor:
    options = graph.options
    factor = _SIDES if options.dynamic_size else 1  # a map's side of 1 would be fixed
    height, width = (x * factor for x in options.size)
    return torch.zeros(2 if options.dynamic_batch else 1, 3, height, width)


def _dynamic(graph: Graph) -> Dict[int, Any]:
    """The dimensions of the image that differ from call to call."""
    multiple = max(graph.detector.backbone.size_divisibility, 1)
    shapes: Dict[int, Any] = {0: Dim("batch")} if graph.options.dynamic_batch else {}
    if graph.options.dynamic_size:
        shapes |= {k: multiple * Dim(name) for k, name in ((2, "rows"), (3, "columns"))}
    return shapes


@torch.no_grad()
def _exported(graph: Graph) -> ExportedProgram:
    with _quiet():
        program = torch.export.export(
            graph, (_example(graph),), dynamic_shapes=(_dynamic(graph),), strict=False
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide torchvision's and Detectron2's deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
