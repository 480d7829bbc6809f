"""Reading files of weights as data: nothing in them is executed.

`.pth`, `.pkl` and their like go through an unpickler that knows numbers, containers and nothing
else, and allocates no more than a file's size allows; `.safetensors` holds arrays alone. A path may
pin the file's content: `weights.pth#sha256=<64 hexadecimal digits>`.
"""

import os
import pickle
import re
from pathlib import Path
from typing import Any, Dict, Set, Tuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ConfigError
from ..file_io import kind_of, sha256_of
from ..text import plain
from .address import local_file
from .safetensors_file import is_safetensors, write_safetensors
from .torch_file import read_torch
from .values import as_tensors, check_values

TRUSTED = "D2KD_TRUSTED_FILES"


def read_weights(filename: str) -> Dict[str, Any]:
    """Read a local file of weights: of `torch.save`, a pickle, or safetensors.

    The environment variable `D2KD_TRUSTED_FILES` (paths, separated as in PATH) names files that may
    run code while they are read; it is no config key, so that no downloaded yaml can set it.

    Returns:
        What is in the file, with its weights under "model"; those of safetensors in fp32 where they
        are fp16 or bf16.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: unreadable, damaged, or it holds other things than arrays and containers.
    """
    data = read_stored(filename)
    if is_safetensors(filename):
        return {"model": {k: _to_float(v) for k, v in data["model"].items()}}
    return data


def read_stored(filename: str) -> Dict[str, Any]:
    """What is in a file, with its weights under "model", in the types that it has.

    Errors: see `read_weights`.
    """
    data = read_file(filename)
    if is_safetensors(filename):
        return {"model": data}
    return _with_model(data, filename.endswith(".pkl"))


def read_file(filename: str, inert: bool = False) -> Any:
    """Read a file as it is, see `read_weights`.

    Args:
        filename: a local file.
        inert: objects that are no data become placeholders rather than an error.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: unreadable, damaged, or it holds other things than arrays and containers.
    """
    try:
        _refuse_others(filename)
        if is_safetensors(filename):
            return load_file(filename)
        if inert or os.path.realpath(filename) not in _trusted_files():
            return read_torch(filename, inert)
        return _read_trusted(filename)
    except (ConfigError, FileNotFoundError):
        raise
    except Exception as error:  # a broken file fails anywhere in its parser
        objects = (
            ", or hold objects other than arrays, which are refused because they can run code; for "
            f"a file that you made yourself, {TRUSTED}={filename} allows them"
        )
        raise ConfigError(
            f"{filename} is not a readable checkpoint: {first_line(error)}. It may be truncated "
            "(compare its size with the source and copy it again), of another format"
            f"{'' if inert else objects}."
        ) from error


def _refuse_others(filename: str) -> None:
    kind = kind_of(filename)
    if os.path.isdir(filename):
        raise ConfigError(f"{filename} is not a readable checkpoint: it is a folder: give a file.")
    if kind and kind.group not in ("weights", "mmdet", "program"):
        said = f"it is {kind.what}: {kind.use}"
        raise ConfigError(f"{filename} is not a readable checkpoint: {said}.")
    if not os.path.getsize(filename):
        raise ConfigError(f"{filename} is not a readable checkpoint: it is empty: copy it again.")


def split_pin(path: str) -> Tuple[str, str]:
    """Split `weights.pth#sha256=<digits>` into the path and the digits, "" without a pin.

    Raises:
        ConfigError: the part behind # is not a SHA-256.
    """
    file, hash_sign, pin = path.rpartition("#")
    if not hash_sign or "/" in pin:  # of a folder's name
        return path, ""
    if not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", pin):
        raise ConfigError(f"{path}: expected #sha256= and 64 hexadecimal digits behind a file")
    return file, pin.removeprefix("sha256=").lower()


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


def _read_trusted(filename: str) -> Any:
    if not filename.endswith(".pkl"):
        return torch.load(filename, map_location="cpu", weights_only=False)
    with open(filename, "rb") as file:
        return pickle.load(file, encoding="latin1")


def _with_model(data: Any, pickled: bool) -> Dict[str, Any]:
    """The content with its weights under "model", as Detectron2 has it for each kind of file."""
    if not isinstance(data, dict) or "model" in data:
        return data if isinstance(data, dict) else {"model": data}
    if isinstance(data.get("model_state"), dict):  # pycls
        weights = {k: v for k, v in data["model_state"].items() if "num_batches" not in str(k)}
        return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
    if not pickled:
        return {"model": data}
    blobs = data["blobs"] if isinstance(data.get("blobs"), dict) else data
    weights = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _to_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def first_line(error: BaseException) -> str:
    """What an error says, for a message of one line."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    said = f"it has no {text}" if isinstance(error, KeyError) else text
    return plain((said or type(error).__name__).strip().split("\n")[0].rstrip("."))


def convert_weights(source: str, target: Path, half: bool = False) -> None:
    """Write the weights of a checkpoint, without optimizer and projections, as safetensors.

    Args:
        source: .pth, .pkl or .safetensors: a file, URL or `detectron2://` address, maybe pinned.
        target: written completely or not at all.
        half: write float tensors in fp16.

    Raises:
        ConfigError: `target` is no .safetensors file, or is the source; `source` is damaged, not
            the pinned file, has names of another toolbox, holds more than arrays, or numbers that
            are not finite, in fp16 with `half`.
    """
    if target.suffix != ".safetensors":
        raise ConfigError(f"TARGET {target} must end in .safetensors.")
    path, pin = split_pin(source)
    path = local_file(path)
    check_pin(path, pin)
    if target.exists() and target.samefile(path):
        raise ConfigError(f"TARGET {target} is the source, which would be overwritten.")
    data = read_weights(path)
    if data.get("matching_heuristics"):
        raise ConfigError(
            f"{source} has names of Caffe2 or pycls, which are matched with those of a model where "
            "it is loaded, but not out of a .safetensors file: give it as it is."
        )
    tensors = data["model"]
    try:
        as_tensors(tensors)
        halves = {k: v.half() for k, v in tensors.items() if half and v.is_floating_point()}
        check_values(tensors, halves)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    write_safetensors({**tensors, **halves}, target)
