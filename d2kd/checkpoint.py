"""Checkpoints: loaded without running code, and strictly where a teacher must be filled."""

import logging
import pickle
import zipfile
from typing import Any, Dict, List

import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

_SAFE_GLOBALS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


_QUALITY_HINT = (
    "reg_conf is the quality predictor: MODEL.GFL.QUALITY may be another than it was trained with "
    "(DGQP's first layer reads 20 statistics, SDGQP's 4 * (TOPK + 1); a DGQP checkpoint fits SDGQP "
    "with SELECTOR fixed, TOPK 4, KAPPA 4.0 and TAU 0.001)"
)


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that reads `.pth`, `.pkl` and `.safetensors` as data only.

    `.pth` files go through `torch.load(weights_only=True)`, `.pkl` files through an unpickler that
    knows arrays and containers and nothing else.
    """

    def _load_file(self, filename: str) -> Dict[str, Any]:
        try:
            if filename.endswith(".safetensors"):
                return {"model": {k: _to_float(v) for k, v in load_file(filename).items()}}
            if filename.endswith(".pkl"):
                return _as_detectron2(_load_pickle(filename))
            return super()._load_file(filename)
        except FileNotFoundError:
            raise
        except (
            pickle.UnpicklingError,
            SafetensorError,
            zipfile.BadZipFile,
            EOFError,
            OSError,
            RuntimeError,
        ) as error:
            raise ValueError(
                f"{filename} is not a readable checkpoint: {_first_line(error)}. It may be "
                "truncated (compare its size with the source and copy it again), of another "
                "format, or hold objects other than arrays, which are refused."
            ) from error

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        if any("reg_conf." in name for name, _, _ in incompatible.incorrect_shapes):
            logging.getLogger(__name__).warning(_QUALITY_HINT)
        return incompatible

    def _torch_load(self, f: str) -> Dict[str, Any]:
        return torch.load(f, map_location="cpu", weights_only=True)


class StrictCheckpointer(SafeCheckpointer):
    """A checkpointer for which a tensor that is not filled is an error, for teachers."""

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        wrong = [f"{k} {a} instead of {b}" for k, a, b in incompatible.incorrect_shapes]
        filled = {k for k, _, _ in incompatible.incorrect_shapes}
        missing = [k for k in incompatible.missing_keys if k not in filled]
        if wrong or missing:
            raise ValueError(_describe_misfit(missing, wrong, len(self.model.state_dict())))
        return incompatible


def load_detector(detector: nn.Module, path: str, key: str) -> None:
    """Fill a detector from a checkpoint, completely.

    Args:
        detector: changed in place.
        path: file, URL, `detectron2://` or model-zoo address; .pth, .pkl or .safetensors.
        key: the option that named it, for error messages.

    Raises:
        ValueError: unreadable, or it does not fill every tensor.
        FileNotFoundError: no such file.
    """
    try:
        StrictCheckpointer(detector, save_to_disk=False).load(path, checkpointables=[])
    except (FileNotFoundError, AssertionError) as error:
        raise FileNotFoundError(f"{key}: checkpoint {path!r} not found.") from error
    except ValueError as error:
        raise ValueError(f"{key}: {path}: {error}") from error


def _describe_misfit(missing: List[str], wrong: List[str], total: int) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {total} tensors are missing: {_some(missing)}")
    if wrong:
        parts.append(f"{len(wrong)} have another shape: {_some(wrong)}")
    if any("reg_conf." in name for name in (*missing, *wrong)):
        parts.append(_QUALITY_HINT)
    return (
        f"the checkpoint does not fill the teacher; {'; '.join(parts)}. Check that "
        "DISTILL.TEACHER.CONFIG_FILES names the config it was trained with (detector, depth, "
        "NUM_CLASSES) and that it holds a whole detector, not only a backbone."
    )


def _some(names: List[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0].rstrip(".")


def _to_float(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE_GLOBALS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _load_pickle(filename: str) -> Dict[str, Any]:
    with open(filename, "rb") as f:
        return _ArrayUnpickler(f, encoding="latin1").load()


def _as_detectron2(data: Dict[str, Any]) -> Dict[str, Any]:
    if "model" in data:
        return data
    data = {k: v for k, v in data.get("blobs", data).items() if not k.endswith("_momentum")}
    return {"model": data, "__author__": "Caffe2", "matching_heuristics": True}
