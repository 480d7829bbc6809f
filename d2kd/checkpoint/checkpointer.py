"""Checkpoints: written atomically, read without running code, and strictly where it matters."""

import logging
from pathlib import Path
from shutil import disk_usage
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from ..errors import ConfigError, MissingFileError
from ..file_io import write_atomically
from .weights_file import check_pin, read_weights, split_pin

_QUALITY_HINT = (
    "reg_conf is the quality predictor: MODEL.GFL.QUALITY may be another than it was trained with "
    "(DGQP's first layer reads 20 statistics, SDGQP's 4 * (TOPK + 1); a DGQP checkpoint fits SDGQP "
    "with SELECTOR fixed, TOPK 4, KAPPA 4.0 and TAU 0.001)"
)


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with files read as data only and written completely or not at all.

    See `d2kd.checkpoint.weights_file` for the formats; `save_dir` is a local folder.
    """

    _pin = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` and make it the last checkpoint.

        Raises:
            OSError: the disk is full or the folder cannot be written; names the last good one.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            write_atomically(path, lambda part: _save(data, part))
            self.tag_last_checkpoint(path.name)
        except OSError as error:
            last = self.get_checkpoint_file() or "none yet"
            raise OSError(
                f"The checkpoint {path} could not be written: {error}. Free space there or change "
                f"OUTPUT_DIR, and go on with --resume. The last good checkpoint: {last}."
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the last checkpoint in `<save_dir>/last_checkpoint`."""
        path = Path(self.save_dir, "last_checkpoint")
        write_atomically(path, lambda part: part.write_text(last_filename_basename))

    def load(self, path: str, checkpointables: Optional[List[str]] = None) -> Dict[str, Any]:
        """Load a file, URL or `detectron2://` address, of pinned content if it says so.

        Raises:
            ValueError: it is not the pinned file, is damaged, or holds more than arrays.
            MissingFileError: there is no such file.
        """
        path, self._pin = split_pin(path or "")
        try:
            return super().load(path, checkpointables)
        except AssertionError as error:
            if "not found" not in str(error):
                raise
            raise MissingFileError(
                f"the checkpoint {path!r} does not exist. It is named by MODEL.WEIGHTS, or in a "
                "resumed run by OUTPUT_DIR/last_checkpoint."
            ) from None

    def _load_file(self, filename: str) -> Dict[str, Any]:
        check_pin(filename, self._pin)
        if filename.endswith(".pth"):
            return super()._load_file(filename)
        return read_weights(filename)

    def _torch_load(self, f: str) -> Dict[str, Any]:
        return read_weights(f)

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        _check_values(checkpoint["model"])
        found = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        if any("reg_conf." in name for name, _, _ in incompatible.incorrect_shapes):
            logging.getLogger(__name__).warning(_QUALITY_HINT)
        unfilled = {name for name, _, _ in incompatible.incorrect_shapes}.union(
            incompatible.missing_keys
        )
        if unfilled.issuperset(self.model.state_dict()):
            raise ValueError(
                f"none of its {len(found)} tensors fits the model: it is of another "
                f"detector. It holds {_some(found)}."
            )
        return incompatible


class StrictCheckpointer(SafeCheckpointer):
    """A checkpointer for which a tensor that is not filled is an error."""

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        wrong = [f"{k} {a} instead of {b}" for k, a, b in incompatible.incorrect_shapes]
        filled = {k for k, _, _ in incompatible.incorrect_shapes}
        missing = [k for k in incompatible.missing_keys if k not in filled]
        if wrong or missing:
            raise ValueError(_describe_misfit(missing, wrong, len(self.model.state_dict())))
        return incompatible


def last_checkpoint(folder: str) -> str:
    """The last checkpoint in the folder of a run.

    Raises:
        ConfigError: there is none.
    """
    checkpointer = SafeCheckpointer(nn.Module(), folder)
    if not checkpointer.has_checkpoint():
        raise MissingFileError(f"{folder} holds no checkpoint: has that run been stopped early?")
    return checkpointer.get_checkpoint_file()


def load_detector(detector: nn.Module, path: str, key: str) -> None:
    """Fill a detector from a checkpoint, completely.

    Args:
        detector: changed in place.
        path: file, URL, `detectron2://` or model-zoo address; .pth, .pkl or .safetensors, maybe
            with `#sha256=<digits>` behind it.
        key: the option that named it, for error messages.

    Raises:
        ValueError: unreadable, not the pinned file, or it does not fill every tensor.
        FileNotFoundError: no such file.
    """
    try:
        StrictCheckpointer(detector, save_to_disk=False).load(path, checkpointables=[])
    except (FileNotFoundError, AssertionError) as error:
        raise MissingFileError(f"{key}: checkpoint {path!r} not found.") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {path}: {error}") from error


def _save(data: Dict[str, Any], path: Path) -> None:
    """Like `torch.save`, whose writer reports a full disk as a RuntimeError."""
    try:
        with open(path, "wb") as file:
            torch.save(data, file)
    except RuntimeError as error:
        free = disk_usage(path.parent).free / 1e6
        raise OSError(f"{free:.1f} MB are free there ({str(error).splitlines()[0]})") from error


def _check_values(tensors: Any) -> None:
    """Refuse what is no detector's weights: no dictionary, wrong types, NaN or infinite values."""
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError(f"it holds no dictionary of tensors, but {type(tensors).__name__}")
    others = [f"{k} ({type(x).__name__})" for k, x in tensors.items() if not _is_array(k, x)]
    if others:
        raise ValueError(f"it holds other things than tensors by name: {_some(others)}")
    arrays = {name: torch.as_tensor(x) for name, x in tensors.items()}
    complex_ones = [name for name, x in arrays.items() if x.is_complex() or x.dtype == torch.bool]
    if complex_ones:
        raise ValueError(f"tensors are complex or boolean: {_some(complex_ones)}")
    broken = [name for name, x in arrays.items() if not _is_finite(x)]
    if broken:
        raise ValueError(f"tensors with NaN or infinite values: {_some(broken)}; it is damaged")


def _is_array(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, (Tensor, np.ndarray))


def _is_finite(x: Tensor) -> bool:
    return not x.is_floating_point() or bool(torch.isfinite(x).all())


def _describe_misfit(missing: List[str], wrong: List[str], total: int) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {total} tensors are missing: {_some(missing)}")
    if wrong:
        parts.append(f"{len(wrong)} have another shape: {_some(wrong)}")
    if any("reg_conf." in name for name in (*missing, *wrong)):
        parts.append(_QUALITY_HINT)
    return (
        f"the checkpoint does not fill the detector; {'; '.join(parts)}. Check that the config "
        "(for a teacher, DISTILL.TEACHER.CONFIG_FILES) is the one it was trained with (detector, "
        "depth, NUM_CLASSES) and that it holds a whole detector, not only a backbone."
    )


def _some(names: List[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
