"""Checkpoints that must fill a detector completely: a teacher's, and what is evaluated."""

from typing import Any, Dict, List

from torch import nn

from ..errors import ConfigError, MissingFileError
from .address import is_address
from .checkpointer import QUALITY_HINT, SafeCheckpointer
from .values import first_names


class StrictCheckpointer(SafeCheckpointer):
    """A checkpointer for which a tensor that is not filled is an error."""

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        wrong = [f"{k} {a} instead of {b}" for k, a, b in incompatible.incorrect_shapes]
        filled = {k for k, _, _ in incompatible.incorrect_shapes}
        missing = [k for k in incompatible.missing_keys if k not in filled]
        if wrong or missing:
            raise ConfigError(_describe_misfit(missing, wrong, len(self.model.state_dict())))
        return incompatible


def load_detector(detector: nn.Module, path: str, key: str, **beside: Any) -> None:
    """Fill a detector from a checkpoint, completely.

    Args:
        detector: changed in place.
        path: file, URL, `detectron2://` or model-zoo address; .pth, .pkl or .safetensors, maybe
            with `#sha256=<digits>` behind it.
        key: the option that named it, for error messages.
        beside: what else the checkpoint has a state of, by its section, as far as it is there.

    Raises:
        ValueError: unreadable, not the pinned file, or it does not fill every tensor.
        FileNotFoundError: no such file.
    """
    try:
        checkpointer = StrictCheckpointer(detector, save_to_disk=False, **beside)
        checkpointer.load(path, checkpointables=[*beside])
    except FileNotFoundError as error:
        if is_address(path):
            raise MissingFileError(f"{key}: {error}") from error
        raise MissingFileError(f"{key}: checkpoint {path!r} not found.") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def _describe_misfit(missing: List[str], wrong: List[str], total: int) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {total} tensors are missing: {first_names(missing)}")
    if wrong:
        parts.append(f"{len(wrong)} have another shape: {first_names(wrong)}")
    if any("reg_conf." in name for name in (*missing, *wrong)):
        parts.append(QUALITY_HINT)
    return (
        f"the checkpoint does not fill the detector; {'; '.join(parts)}. Check that the config "
        "(for a teacher, DISTILL.TEACHER.CONFIG_FILES) is the one it was trained with (detector, "
        "depth, NUM_CLASSES) and that it holds a whole detector, not only a backbone."
    )
