"""The formats of exported files, by name and by suffix."""

import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Tuple

from torch import nn

from ..errors import ConfigError
from ..file_io import write_atomically
from .description import RT_INFO
from .write import export_onnx, export_pt2, require, to_onnx


def export_openvino(detector: nn.Module, path: str | Path, **options: Any) -> Dict[str, Any]:
    """Write a detector as OpenVINO's .xml and, beside it, the .bin with the weights.

    Input, outputs, arguments and errors are those of `export_onnx`, by way of which it is made. The
    description is JSON in the model's rt_info, under `RT_INFO`.
    """
    require("onnxscript", "onnx", "openvino")
    import openvino

    model, description = to_onnx(detector, **options)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "model.xml")
        source.write_bytes(model.SerializeToString())
        try:
            converted = openvino.Core().read_model(source)
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            reason = next((x for x in lines if "No conversion rule" in x), lines[-1]).strip(" -")
            raise ConfigError(f"OpenVINO cannot take it: {reason}. Write .onnx instead.") from None
        converted.set_rt_info(json.dumps(description), list(RT_INFO))
        openvino.save_model(converted, target, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            copy = partial(shutil.copyfile, target.with_suffix(suffix))
            write_atomically(Path(path).with_suffix(suffix), copy)
    return description


class Format(NamedTuple):
    """What `--format` names: how files end, how they are written, and the packages for it."""

    suffix: str
    write: Callable[..., Dict[str, Any]]
    packages: Tuple[str, ...]


FORMATS = {
    "onnx": Format(".onnx", export_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Format(".xml", export_openvino, ("onnx", "onnxscript", "openvino")),
    "pt2": Format(".pt2", export_pt2, ()),
}
SUFFIXES = {x.suffix: x for x in FORMATS.values()}


def output_of(output: Path | None, format_name: str | None) -> Path:
    """Where to write: `output`, whose suffix the format adds where it has none.

    Args:
        output: a file or a folder; None for student and the format's suffix.
        format_name: of `FORMATS`; None for that of the suffix, or onnx without `output`.

    Raises:
        ConfigError: `output` ends as another format does.
    """
    if output is None or format_name is None:
        return output or Path(f"student{FORMATS[format_name or 'onnx'].suffix}")
    suffix = FORMATS[format_name].suffix
    if output.suffix not in ("", suffix):
        raise ConfigError(f"--format {format_name} is for {suffix}: end --output {output} with it.")
    return output.with_suffix(suffix)
