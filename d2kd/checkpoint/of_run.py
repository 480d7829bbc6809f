"""Which checkpoint the folder of a run stands for."""

import math
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from ..errors import ConfigError
from ..file_io import read_json
from .checkpointer import last_checkpoint

BEST = "model_best"
"""Name of the weights of a run's best evaluation (.pth), and of what is known of it (.json)."""


def run_checkpoint(folder: str, last: bool = False) -> Tuple[str, str]:
    """The best checkpoint of a run, or the last where there is no best or `last` is asked for.

    Returns:
        Tuple: its path, and a text that says which it is.

    Raises:
        ConfigError: there is none, or the record of the best one is damaged.
    """
    path = Path(folder, f"{BEST}.pth")
    best = read_best(Path(folder)) if path.is_file() and not last else None
    if best is None:
        found = last_checkpoint(folder)
        return found, f"{found}, the run's last checkpoint"
    reached = f"{best['metric']} {best['value']:.4g} at step {best['step']:,}"
    return str(path), f"{path}, the run's best checkpoint ({reached})"


def read_best(folder: Path) -> Optional[Dict[str, Any]]:
    """`metric`, `value`, `iteration`, `step` and more of a run's best evaluation, or None.

    Raises:
        ConfigError: the record is damaged.
    """
    path = folder / f"{BEST}.json"
    if not path.exists():
        return None
    record = read_json(path)
    try:
        is_whole = math.isfinite(record["value"] + record["iteration"]) and record["metric"]
    except (TypeError, LookupError):
        is_whole = False
    if not is_whole:
        raise ConfigError(f"{path} is damaged: delete it, and the last checkpoint is taken.")
    return {"step": record["iteration"] + 1, **record}
