"""Running exported files, and preparing images for them."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np
import torch
from PIL import Image

from ..errors import ConfigError, MissingFileError
from .description import RT_INFO, checked, from_strings
from .size import fit
from .write import ENTRY, require

Forward = Callable[[np.ndarray], Tuple[np.ndarray, ...]]
"""An image to the arrays of the graph's outputs."""


class Exported(NamedTuple):
    """An exported file, opened.

    Attributes:
        run: an image (1, 3, H, W) float32 in 0..255, or N of them where the batch is dynamic, to
            the arrays of the graph's outputs.
        description: what `export_onnx` returned.
    """

    run: Forward
    description: Dict[str, Any]

    def of_each(self, images: np.ndarray) -> List[Tuple[np.ndarray, ...]]:
        """The outputs of each of the images: boxes, scores and more."""
        found = self.run(images)
        if "batch" not in self.description.get("dynamic", ()):
            return [found]
        if not self.description["nms"]:
            return list(zip(*found, strict=True))
        *arrays, whose = found
        return [tuple(x[whose == k] for x in arrays) for k in range(len(images))]


def open_exported(path: str | Path) -> Exported:
    """Open an .onnx file with onnxruntime, an .xml with OpenVINO or a .pt2 with torch.

    It runs on one CPU thread, in float32: OpenVINO's own choice is bfloat16 on CPUs that have it.

    A .pt2 file can hold pickled objects, which torch.export.load runs: open your own only.

    Raises:
        ConfigError: no such file, or of another kind; a package is missing.
    """
    path = Path(path)
    if path.suffix not in _OPENERS:
        raise ConfigError(f"{path}: exported files end with .onnx, .xml or .pt2.")
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist.")
    require(*_PACKAGES.get(path.suffix, ()))
    try:
        return _OPENERS[path.suffix](path)
    except Exception as error:  # onnxruntime and torch raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path} is no file that d2kd exported: {reason}") from error


def _open_onnx(path: Path) -> Exported:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    description = checked(from_strings(session.get_modelmeta().custom_metadata_map))

    def run(images: np.ndarray) -> Tuple[np.ndarray, ...]:
        return tuple(session.run(None, {"image": images}))

    return Exported(run, description)


def _open_openvino(path: Path) -> Exported:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    known = model.has_rt_info(list(RT_INFO))
    text = model.get_rt_info(list(RT_INFO)).astype(str) if known else "{}"
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(model, "CPU", config)

    def run(images: np.ndarray) -> Tuple[np.ndarray, ...]:
        found = compiled({"image": images})
        return tuple(found[index] for index in range(len(compiled.outputs)))

    return Exported(run, checked(json.loads(text)))


def _open_pt2(path: Path) -> Exported:
    extra = {ENTRY: ""}
    module = torch.export.load(path, extra_files=extra).module()

    @torch.no_grad()
    def run(image: np.ndarray) -> Tuple[np.ndarray, ...]:
        return tuple(x.numpy() for x in module(torch.from_numpy(image)))

    return Exported(run, checked(json.loads(extra[ENTRY] or "{}")))


_OPENERS = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_pt2}
_PACKAGES = {".onnx": ("onnxruntime",), ".xml": ("openvino",)}


def fit_image(image: np.ndarray, description: Dict[str, Any]) -> Tuple[np.ndarray, float]:
    """Resize an image as PyTorch does, or less so that it fits, and pad it right and below.

    Args:
        image: (h, w, 3) uint8 in the detector's channel order.
        description: of the exported file.

    Returns:
        Tuple: (1, 3, H, W) float32, of the file's size or, where it is dynamic, no larger than the
        detector's padding needs, and the factor by which detected boxes are larger than in the
        given image.
    """
    height, width = description["size"]
    (h, w), scale = fit((image.shape[0], image.shape[1]), description)
    resized = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    if "size" in description.get("dynamic", ()):
        multiple, least = description["multiple"], description.get("least", 1)
        height, width = (-(-max(x, least) // multiple) * multiple for x in (h, w))
    padded = np.empty((1, 3, height, width), np.float32)
    padded[:] = np.reshape(description["pad_value"], (1, 3, 1, 1))
    padded[0, :, :h, :w] = resized.transpose(2, 0, 1)
    return padded, scale
