"""Writing a detector as ONNX or as a torch.export program."""

import contextlib
import importlib
import io
import json
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram

from ..errors import ConfigError
from ..file_io import write_atomically
from .graph import AllBoxes, Detections
from .options import Options, describe, prepare, to_strings

ENTRY = "d2kd.json"
"""Name of the description in a .pt2 archive."""


def export_onnx(detector: nn.Module, path: str | Path, **options: Any) -> Dict[str, Any]:
    """Write a dense detector as one ONNX file that needs neither d2kd nor torch.

    The graph takes "image", (1, 3, H, W) float32 in 0..255, and normalizes it. With NMS it returns
    "boxes" (N, 4) XYXY px, "scores" (N,) and "classes" (N,), best first; without, "boxes" (A, 4)
    and "scores" (A, K) of all levels. The description is in the file's metadata, as JSON values.

    Args:
        detector: a one-stage one, see `rule_of`; it is copied and not changed.
        path: of the file to write; its folder must exist.
        options: see `Options`.

    Returns:
        Dict: the description, see docs/guide/export.md.

    Raises:
        ConfigError: the detector or an option cannot work, or a package is missing.
        OSError: the file cannot be written.
    """
    require("onnxscript", "onnx")
    program, names, description = _trace(detector, Options(**options))
    with _quiet():
        # None is what `dynamo=False` returns
        model: ONNXProgram = torch.onnx.export(  # type: ignore[assignment]
            program,
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=list(names),
        )
    for node in model.model.graph.all_nodes():
        node.metadata_props.clear()
    model.model.metadata_props.update(to_strings(description))
    write_atomically(Path(path), lambda file: model.save(file, external_data=False))
    return description


def export_pt2(detector: nn.Module, path: str | Path, **options: Any) -> Dict[str, Any]:
    """Write a dense detector as a torch.export program, for torch and torchvision alone.

    Input, outputs, arguments and errors are those of `export_onnx`. The description is the JSON
    file `d2kd.json` in the archive.
    """
    program, _, description = _trace(detector, Options(**options))
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={ENTRY: json.dumps(description)})
    write_atomically(Path(path), lambda file: file.write_bytes(buffer.getvalue()))
    return description


def require(*packages: str) -> None:
    """Raise a ConfigError that says how to install what is missing."""
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"Exporting needs {name} ({error}). Install it with: pip install 'd2kd[export]'"
            ) from None


def build_graph(detector: nn.Module, options: Options) -> AllBoxes:
    """The graph of a detector that `prepare` returned."""
    return (Detections if options.nms else AllBoxes)(detector, options.size).eval()


@torch.no_grad()
def _trace(
    detector: nn.Module, options: Options
) -> Tuple[ExportedProgram, Tuple[str, ...], Dict[str, Any]]:
    detector = prepare(detector, options)
    graph = build_graph(detector, options)
    with _quiet():
        program = torch.export.export(graph, (torch.zeros(1, 3, *options.size),), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program, graph.names, describe(detector, options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide torchvision's and Detectron2's deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
