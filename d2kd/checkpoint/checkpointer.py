"""Checkpoints: written atomically, read without running code, and strictly where it matters."""

import logging
import os
import re
from pathlib import Path
from shutil import copyfile, disk_usage
from typing import Any, Dict, List, Optional, Sequence

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..errors import ConfigError, MissingFileError
from ..file_io import write_atomically
from ..text import plain
from .address import local_file
from .torchvision import from_torchvision, is_torchvision
from .values import as_tensors, check_finite, check_values, first_names
from .weights_file import check_pin, first_line, read_weights, split_pin

FINAL = "model_final.pth"
_MOST_NAMES = 100  # in a warning
QUALITY_HINT = (
    "reg_conf is the quality predictor: MODEL.GFL.QUALITY may be another than it was trained with "
    "(DGQP's first layer reads 20 statistics, SDGQP's 4 * (TOPK + 1); a DGQP checkpoint fits SDGQP "
    "with SELECTOR fixed, TOPK 4, KAPPA 4.0 and TAU 0.001)"
)


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with files read as data only and written completely or not at all.

    See `d2kd.checkpoint.weights_file` for the formats; `save_dir` is a local folder.
    """

    _pin = ""
    _wanted: Sequence[str] = ()

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

    def get_checkpoint_file(self) -> str:
        """The file that `<save_dir>/last_checkpoint` names, "" without one.

        Raises:
            ConfigError: it names something outside of the folder, or is no text.
        """
        try:
            file = super().get_checkpoint_file()
        except UnicodeDecodeError:
            raise ConfigError(
                f"{self.save_dir}/last_checkpoint is damaged: write the name of the folder's last "
                "checkpoint, such as model_final.pth, in there."
            ) from None
        folder, name = os.path.split(file)
        is_here = os.path.normpath(folder) == os.path.normpath(self.save_dir)
        if file and not (is_here and name.strip(".")):
            raise ConfigError(
                f"{self.save_dir}/last_checkpoint names {plain(file)}, which is no file of that "
                "folder: write the name of its last checkpoint, such as model_final.pth, in there."
            )
        return file

    def load(self, path: str, checkpointables: Optional[List[str]] = None) -> Dict[str, Any]:
        """Load a file, URL or `detectron2://` address, of pinned content if it says so.

        Raises:
            ConfigError: it is not the pinned file, is damaged, or holds more than arrays; nothing
                is changed then, unless it is a state of the optimizer or of hooks that fails.
            MissingFileError: there is no such file, or it cannot be downloaded.
            RuntimeError: the memory does not suffice.
        """
        path, self._pin = split_pin(path or "")
        given, path = path, local_file(path)
        self._wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        try:
            return super().load(path, checkpointables)
        except AssertionError as error:
            if "not found" not in str(error):
                raise
            what = "is a folder" if os.path.isdir(path) else "does not exist"
            raise MissingFileError(
                f"the checkpoint {path!r} {what}. It is named by MODEL.WEIGHTS, or in a "
                "resumed run by OUTPUT_DIR/last_checkpoint."
            ) from None
        except OSError:
            raise
        except ValueError as error:
            said = re.sub(f"^{re.escape(given)} ", "it ", str(error))
            raise ConfigError(f"{given}: {said}") from error
        except (AttributeError, LookupError, RuntimeError, TypeError) as error:
            if any(text in str(error) for text in ("out of memory", "allocate memory")):
                raise
            raise ConfigError(
                f"{given}: it cannot be loaded: {first_line(error)}. It is damaged, or of a model "
                "that was built with other keys."
            ) from error
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> Dict[str, Any]:
        check_pin(filename, self._pin)
        if filename.endswith((".pkl", ".pyth")):
            return read_weights(filename)
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> Dict[str, Any]:
        return read_weights(f)

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        as_tensors(checkpoint["model"])
        for key in self._wanted:
            check_finite(checkpoint.get(key), key)
        if is_torchvision(checkpoint["model"]):
            state = self.model.state_dict()
            checkpoint = {**checkpoint, "model": from_torchvision(checkpoint["model"], state)}
        found = list(checkpoint["model"])
        if renamed := getattr(self.model, "renamed", None):  # of a library with names of its own
            checkpoint = {**checkpoint, "model": renamed(checkpoint["model"])}
        incompatible = super()._load_model(checkpoint)
        if any("reg_conf." in name for name, _, _ in incompatible.incorrect_shapes):
            logging.getLogger(__name__).warning(QUALITY_HINT)
        unfilled = {name for name, _, _ in incompatible.incorrect_shapes}.union(
            incompatible.missing_keys
        )
        if unfilled.issuperset(self.model.state_dict()):
            raise ConfigError(
                f"none of its {len(found)} tensors fits the model: it is of another "
                f"detector. It holds {first_names(found)}."
            )
        return incompatible

    def _convert_ndarray_to_tensor(self, state_dict: Dict[str, Any]) -> None:
        """Check the numbers where Detectron2 has the model's names for them."""
        check_values(state_dict, self.model.state_dict())

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Name what is not loaded; names of the file as it is fit for a terminal."""
        names = [plain(name, 100) for name in incompatible.unexpected_keys]
        if len(names) > _MOST_NAMES:
            names = [*names[:_MOST_NAMES], f"({len(names) - _MOST_NAMES:,} more)"]
        super()._log_incompatible_keys(incompatible._replace(unexpected_keys=names))


def last_checkpoint(folder: str) -> str:
    """The last checkpoint in the folder of a run.

    Raises:
        ConfigError: there is none.
    """
    checkpointer = SafeCheckpointer(nn.Module(), folder)
    if not checkpointer.has_checkpoint():
        raise MissingFileError(f"{folder} holds no checkpoint: has that run been stopped early?")
    return checkpointer.get_checkpoint_file()


def write_final(checkpointer: SafeCheckpointer) -> None:
    """Make the last checkpoint the final one, where a kill came between the two."""
    last, final = Path(checkpointer.get_checkpoint_file()), Path(checkpointer.save_dir) / FINAL
    if not final.exists():
        write_atomically(final, lambda part: copyfile(last, part))
        checkpointer.tag_last_checkpoint(FINAL)


def _save(data: Dict[str, Any], path: Path) -> None:
    """Like `torch.save`, whose writer reports a full disk as a RuntimeError."""
    try:
        with open(path, "wb") as file:
            torch.save(data, file)
    except RuntimeError as error:
        free = disk_usage(path.parent).free / 1e6
        raise OSError(f"{free:.1f} MB are free there ({str(error).splitlines()[0]})") from error
