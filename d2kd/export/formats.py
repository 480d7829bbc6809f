"""The formats of exported files, by name and by suffix."""

import json
import shutil
import tempfile
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, NamedTuple, Tuple

import numpy as np
from torch import nn

from ..errors import ConfigError
from ..file_io import write_atomically
from ..quantize import rounds
from .agreement import agreement_with
from .description import RT_INFO, to_strings
from .int8 import quantize
from .runner import fit_image
from .write import export_onnx, export_pt2, require, to_onnx

if TYPE_CHECKING:
    from onnx import ModelProto

_MEASURED = 16  # images on which parts in INT8 are compared with float ones


def export_openvino(detector: nn.Module, path: str | Path, **options: Any) -> Dict[str, Any]:
    """Write a detector as OpenVINO's .xml and, beside it, the .bin with the weights.

    Input, outputs, arguments and errors are those of `export_onnx`, by way of which it is made. The
    description is JSON in the model's rt_info, under `RT_INFO`.
    """
    require("onnxscript", "onnx", "openvino")
    model, description = to_onnx(detector, **options)
    _save_openvino(model, Path(path), description)
    return description


def export_int8(
    detector: nn.Module, path: str | Path, calibration: Iterable[np.ndarray], **options: Any
) -> Dict[str, Any]:
    """Write a detector in INT8 as .onnx or .xml, see `d2kd.export.int8.quantize`.

    Args:
        detector: see `export_onnx`.
        path: of the file; its suffix is the format.
        calibration: images (h, w, 3) uint8 in the detector's channel order, of what it will see;
            some dozens.
        options: see `Options`.

    Returns:
        Dict: the description; its "int8" has what was measured of each part of the network.

    Raises:
        ConfigError: see `export_onnx`; no image, or an option or a format that has no INT8.
    """
    path = Path(path)
    check_int8(detector, path, options.get("fp16", False))
    rest = iter(calibration)
    if (first := next(rest, None)) is None:
        raise ConfigError("INT8 (--int8) needs images to calibrate on: give --calibrate FOLDER.")
    require("onnxscript", "onnx", "onnxruntime", *["openvino"] * (path.suffix == ".xml"))
    import onnx

    model, description = to_onnx(detector, **options)
    images = [fit_image(x, description)[0] for x in chain([first], rest)]
    made, parts = quantize(
        model, images, agreement_with(model, images[:: max(1, len(images) // _MEASURED)])
    )
    description["int8"] = [part._asdict() for part in parts]
    onnx.helper.set_model_props(made, to_strings(description))
    if path.suffix == ".xml":
        _save_openvino(made, path, description)
    else:
        write_atomically(path, lambda file: file.write_bytes(made.SerializeToString()))
    return description


def check_int8(detector: nn.Module, path: Path, fp16: bool) -> None:
    """Raise a ConfigError where a detector or a file cannot be in INT8."""
    if path.suffix not in (".onnx", ".xml") or fp16:
        raise ConfigError("INT8 (--int8) is for .onnx and .xml files, without fp16 (--fp16).")
    if rounds(detector):
        raise ConfigError(
            "--int8: this run is quantized already (QUANTIZE.ENABLED): export it without."
        )


def _save_openvino(model: "ModelProto", path: Path, description: Dict[str, Any]) -> None:
    import openvino

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
            write_atomically(path.with_suffix(suffix), copy)


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
