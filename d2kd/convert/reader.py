"""Reading a checkpoint of mmdetection without running code from it."""

import os
from typing import Any, Dict, Tuple

from torch import Tensor

from ..checkpoint.values import as_tensors, check_values
from ..checkpoint.weights_file import read_file
from ..errors import ConfigError, MissingFileError

_PLACES = ("state_dict", "model", "ema_state_dict", "student", "teacher")


def read_mmdet(path: str) -> Tuple[Dict[str, Tensor], str]:
    """Read tensors and, as text only, the config of a checkpoint.

    Everything but tensors, containers, numbers and strings becomes an inert placeholder.

    Args:
        path: .pth of mmdetection 2 or 3, or .safetensors.

    Returns:
        Tuple: tensors by mmdetection's name, and the text of the config it was trained with ("" if
        the file has none).

    Raises:
        MissingFileError: no such file.
        ConfigError: not a checkpoint, or it holds something else than tensors.
    """
    if not os.path.exists(path):
        raise MissingFileError(f"{path}: no such file.")
    data = read_file(path, inert=True)
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no tensors by name.")
    state = next((data[x] for x in _PLACES if isinstance(data.get(x), dict)), data)
    try:
        as_tensors(state)
        check_values(state, {})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return state, _config_text(data)


def _config_text(data: Dict[str, Any]) -> str:
    meta = data.get("meta")
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, dict) else []
    return next((text for text in texts if isinstance(text, str)), "")
