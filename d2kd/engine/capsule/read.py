"""Reading a capsule, as any file that somebody else may have made."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

from torch import Tensor

from ...checkpoint.safetensors_file import read_safetensors
from ...errors import ConfigError, MissingFileError
from ...file_io import read_json
from ...text import plain
from .batch import Batch, unpack
from .write import FORMAT, RECORD, UNFINISHED

REPLAY = "replay"  # the folder of a run's capsules
_FILES = "state", "batch", "student", "heads", "ranges"
_TYPES = {"iteration": int, "reason": dict, "run": dict, "cpu": str, "random": dict, "batch": list,
          "guard": dict, "scaler": dict, "teachers": list, "checkpoint": dict,
          "missing": list}  # fmt: skip


@dataclass(frozen=True)
class Capsule:
    """A failed step.

    Attributes:
        folder: that it is in.
        record: what capsule.json has.
        files: tensors by name, by file; one that is not there is not among them.
    """

    folder: Path
    record: Dict[str, Any]
    files: Dict[str, Dict[str, Tensor]]

    def batch(self) -> Batch:
        """The batch after augmentation.

        Raises:
            ConfigError: it is damaged, or was left out.
        """
        if "batch" not in self.files:
            raise ConfigError(f"{self.folder} has no batch, so there is nothing to repeat.")
        with naming_damage(self.folder):
            return unpack(self.record["batch"], self.files["batch"])


@contextlib.contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with the contents of a capsule into one line.

    Raises:
        ConfigError: from any of the errors that contents of another kind lead to.
    """
    try:
        yield
    except (ConfigError, OSError):
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        reason = plain(f"{type(error).__name__}: {error}".split("\n")[0])
        raise ConfigError(f"{folder} is damaged, or no capsule: {reason}.") from error


def read_capsule(folder: Path) -> Capsule:
    """Read a capsule; nothing in it is executed.

    Raises:
        MissingFileError: there is none.
        ConfigError: it is damaged, or of a later version.
    """
    if not (folder / RECORD).is_file():
        found = sorted(x.parent for x in _records(folder))
        hint = f": name {' or '.join(map(str, found[:5]))}" if found else (
            ", which a run leaves as OUTPUT_DIR/replay/<iteration> where a step fails")  # fmt: skip
        raise MissingFileError(f"FOLDER {folder} is no capsule{hint}.")
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ConfigError(f"{folder}: {RECORD} is of another version, or no record of a step.")
    wrong = [key for key, kind in _TYPES.items() if not isinstance(record.get(key), kind)]
    if wrong:
        raise ConfigError(f"{folder}: {RECORD} is damaged: {', '.join(wrong)}.")
    paths = {name: folder / f"{name}.safetensors" for name in _FILES}
    files = {name: read_safetensors(x)[0] for name, x in paths.items() if x.is_file()}
    if "state" not in files:
        raise ConfigError(f"{folder} is damaged: state.safetensors is missing.")
    return Capsule(folder, record, files)


def name_of(iteration: int, rank: int) -> str:
    """The name of the folder of a rank's capsule."""
    return f"{iteration}_rank{rank}" if rank else f"{iteration}"


def _records(output: Path) -> List[Path]:
    """Those of a run's capsules, without one that a kill has left unfinished."""
    found = output.glob(f"{REPLAY}/*/{RECORD}")
    return [x for x in found if x.parent.suffix != UNFINISHED]


def kept_checkpoints(output: Path) -> Set[Path]:
    """Checkpoints of a run that its capsules need, which are not to be deleted."""
    kept: Set[Path] = set()
    for path in _records(output):
        with contextlib.suppress(ConfigError, KeyError, TypeError):
            checkpoint = read_json(path)["checkpoint"]
            if any(checkpoint["has"].values()):
                kept.add((path.parent / checkpoint["path"]).resolve())
    return kept


def texts(values: List[Any]) -> List[str]:
    """Values of a record, made fit for a terminal."""
    return [plain(x) for x in values]
