"""Reading files of weights as data: nothing in them is executed.

`.pth` goes through `torch.load(weights_only=True)`, `.pkl` through an unpickler that knows arrays
and containers and nothing else, `.safetensors` holds arrays alone. A path may pin the file's
content: `weights.pth#sha256=<64 hexadecimal digits>`.
"""

import os
import pickle
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Set, Tuple, Type

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import ConfigError
from ..file_io import sha256_of, write_atomically
from .address import local_file

TRUSTED = "D2KD_TRUSTED_FILES"

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


def read_weights(filename: str) -> Dict[str, Any]:
    """Read a local `.pth`, `.pkl` or `.safetensors` file.

    The environment variable `D2KD_TRUSTED_FILES` (paths, separated as in PATH) names files that may
    run code while they are read; it is no config key, so that no downloaded yaml can set it.

    Returns:
        What is in the file; a `.safetensors` file's tensors under "model", in fp32 where they are
        fp16 or bf16.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, damaged, or it holds other things than arrays and containers.
    """
    trusted = os.path.realpath(filename) in _trusted_files()
    try:
        if filename.endswith(".safetensors"):
            return {"model": {k: _to_float(v) for k, v in load_file(filename).items()}}
        if filename.endswith(".pkl"):
            return _read_pickle(filename, pickle.Unpickler if trusted else _ArrayUnpickler)
        _check_archive(filename)
        return torch.load(filename, map_location="cpu", weights_only=not trusted)
    except FileNotFoundError:
        raise
    except Exception as error:  # a broken file fails anywhere in its parser
        raise ValueError(
            f"{filename} is not a readable checkpoint: {_first_line(error)}. It may be truncated "
            "(compare its size with the source and copy it again), of another format, or hold "
            "objects other than arrays, which are refused because they can run code; for a file "
            f"that you made yourself, {TRUSTED}={filename} allows them."
        ) from error


def write_safetensors(tensors: Dict[str, Tensor], path: Path) -> None:
    """Write tensors by name, completely or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda part: save_file(contiguous, part))


def split_pin(path: str) -> Tuple[str, str]:
    """Split `weights.pth#sha256=<digits>` into the path and the digits, "" without a pin.

    Raises:
        ValueError: the part behind # is not a SHA-256.
    """
    path, hash_sign, pin = path.partition("#")
    if not hash_sign:
        return path, ""
    if not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", pin):
        raise ValueError(f"{path}#{pin}: expected #sha256= and 64 hexadecimal digits behind a file")
    return path, pin.removeprefix("sha256=").lower()


def check_pin(filename: str, pin: str) -> None:
    """Raise a ValueError unless the file's SHA-256 is the pinned one ("": any)."""
    found = sha256_of(filename) if pin else ""
    if found != pin:
        raise ValueError(
            f"{filename} has the SHA-256 {found}, but {pin} is asked for: it is another file than "
            "the pinned one, or damaged. Get it again, or correct the pin."
        )


def _trusted_files() -> Set[str]:
    paths = os.environ.get(TRUSTED, "").split(os.pathsep)
    return {os.path.realpath(path) for path in paths if path}


def _check_archive(filename: str) -> None:
    """Refuse zip archives that `torch.save` would not have written, and damaged ones."""
    if not zipfile.is_zipfile(filename):
        return
    with zipfile.ZipFile(filename) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"its entry {entry.filename!r} points out of the archive")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its entry {entry.filename!r} is compressed, a possible zip bomb")
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"its entry {damaged!r} does not have its checksum, so it is damaged")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE_GLOBALS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read_pickle(filename: str, unpickler: Type[pickle.Unpickler]) -> Dict[str, Any]:
    with open(filename, "rb") as file:
        data = unpickler(file, encoding="latin1").load()
    if "model" in data:
        return data
    data = {k: v for k, v in data.get("blobs", data).items() if not k.endswith("_momentum")}
    return {"model": data, "__author__": "Caffe2", "matching_heuristics": True}


def _to_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0].rstrip(".")


def convert_weights(source: str, target: Path, half: bool = False) -> None:
    """Write the weights of a checkpoint, without optimizer and projections, as safetensors.

    Args:
        source: .pth, .pkl or .safetensors: a file, URL or `detectron2://` address, maybe pinned.
        target: written completely or not at all.
        half: write float tensors in fp16.

    Raises:
        ConfigError: `target` is no .safetensors file.
        ValueError: `source` is damaged, not the pinned file, or holds more than arrays.
    """
    if target.suffix != ".safetensors":
        raise ConfigError(f"TARGET {target} must end in .safetensors.")
    path, pin = split_pin(source)
    path = local_file(path)
    check_pin(path, pin)
    tensors = {k: torch.as_tensor(v) for k, v in read_weights(path)["model"].items()}
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    write_safetensors(tensors, target)
