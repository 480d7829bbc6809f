"""Reading a checkpoint of mmdetection without running code from it."""

import mmap
import pickle
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Tuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
}
_PREFIXES = ("module.", "student.", "model.")


def read_mmdet(path: str) -> Tuple[Dict[str, Tensor], str]:
    """Read tensors and, as text only, the config of a checkpoint.

    Everything but tensors, containers, numbers and strings becomes an inert placeholder. Prefixes
    that all names share ("module.", "student.") are cut; "data_preprocessor." is dropped.

    Args:
        path: .pth of mmdetection 2 or 3, or .safetensors.

    Returns:
        Tuple: tensors by mmdetection's name, and the text of the config it was trained with ("" if
        the file has none).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, or it holds something else than tensors.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        data = load_file(path) if path.endswith(".safetensors") else _load(path)
    except (pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError, EOFError, RuntimeError,
            OSError, AttributeError, TypeError, ValueError, KeyError) as error:  # fmt: skip
        reason = (str(error) or type(error).__name__).split("\n")[0].rstrip(".")
        raise ValueError(
            f"{path} is not a readable checkpoint: {reason}. It may be truncated (compare its size "
            "with the source and copy it again) or of another format."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no tensors by name.")
    state = data.get("state_dict", data)
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} holds no tensors by name.")
    if any(not isinstance(k, str) for k in state):
        raise ValueError(f"{path}: not all names are strings, as those of tensors are.")
    if wrong := [k for k, v in state.items() if not isinstance(v, Tensor)]:
        raise ValueError(f"{path}: {len(wrong)} entries are not tensors: {', '.join(wrong[:5])}.")
    return _strip(state), _config_text(data)


def _strip(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    state = {k: v for k, v in state.items() if not k.startswith("data_preprocessor.")}
    for prefix in _PREFIXES:
        if state and all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _config_text(data: Dict[str, Any]) -> str:
    meta = data.get("meta")
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, dict) else []
    return next((text for text in texts if isinstance(text, str)), "")


class _Inert:
    """Stands for any object of a file; takes what unpickling does to it and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __setstate__ = append = extend = add = __setitem__ = update = _ignore


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        storage = module == "torch" and re.fullmatch(r"\w+Storage", name)
        if (module, name) in _ALLOWED or storage:
            return super().find_class(module, name)
        return _Inert


def _load_pickle(file: Any, **kwargs: Any) -> Any:
    return _TensorUnpickler(file, **kwargs).load()


_PICKLE = SimpleNamespace(__name__="tensors_only", Unpickler=_TensorUnpickler, load=_load_pickle)


def _is_torchscript(path: str) -> bool:
    """Whether `torch.load` would hand the file to `torch.jit.load`, which runs code of it.

    Any occurrence of the name by which it decides counts, so no zip directory has to be trusted.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"constants.pkl") >= 0


def _load(path: str) -> Any:
    with open(path, "rb") as file:
        is_pickle = file.read(1) == b"\x80"
    if not (is_pickle or zipfile.is_zipfile(path)):
        raise ValueError("it is neither a zip archive nor a pickle, as torch.save writes them")
    if _is_torchscript(path):
        raise ValueError("it is a TorchScript program, which would run; save its state dict")
    return torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
