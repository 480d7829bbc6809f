"""Files of safetensors: arrays by name, and a few words about them."""

from pathlib import Path
from types import MappingProxyType
from typing import Dict, Mapping, Tuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ConfigError
from ..file_io import read_head, write_atomically
from ..text import plain


def is_safetensors(path: str) -> bool:
    """Whether the file begins as the safetensors format does."""
    head = read_head(Path(path), 9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 10**9


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write tensors by name, and texts about them, completely or not at all."""
    layout = torch.contiguous_format
    alone = {name: x.detach().cpu().clone(memory_format=layout) for name, x in tensors.items()}
    write_atomically(path, lambda part: save_file(alone, part, dict(about) or None))


def read_safetensors(path: Path) -> Tuple[Dict[str, Tensor], Dict[str, str]]:
    """Tensors by name, and the texts about them.

    Raises:
        ConfigError: it is no such file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path} is no readable safetensors file: {plain(error)}.") from None
