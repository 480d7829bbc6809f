"""What a run may write into: no folder that it reads from, and no folder of another run."""

import contextlib
import os
from pathlib import Path
from typing import Iterator, Tuple

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from ..checkpoint.checkpointer import FINAL
from ..checkpoint.weights_file import split_pin
from ..config.keys import WITH_TEACHERS
from ..data.custom import find_path
from ..errors import ConfigError
from ..file_io import LOCK, locked

_MARKS = ("run.json", "last_checkpoint", "model_*.pth")
_ELSEWHERE = "give another folder with OUTPUT_DIR or --output"


def holds_run(folder: Path) -> bool:
    """Whether a run, finished or not, has left anything in a folder that another would destroy."""
    rows = folder / "metrics.json"
    has_rows = rows.is_file() and rows.stat().st_size > 0
    return has_rows or any(True for mark in _MARKS for _ in folder.glob(mark))


def check_folder(cfg: CfgNode, resume: bool, data: str = "") -> None:
    """Check that a training into OUTPUT_DIR overwrites nothing of the user's; writes nothing.

    Args:
        cfg: of the training.
        resume: whether it is to go on with what is in the folder.
        data: what `--data` names.

    Raises:
        ConfigError: OUTPUT_DIR is the folder of a teacher, of starting weights or of data, or holds
            another run; the message says what to type.
    """
    if not cfg.OUTPUT_DIR:
        return
    folder = Path(cfg.OUTPUT_DIR)
    goes_on = resume and (folder / "last_checkpoint").is_file()
    _check_inputs(cfg, data, folder, goes_on)
    _check_left(cfg, folder, resume, goes_on)


def hold_folder(cfg: CfgNode, resume: bool, data: str, held: contextlib.ExitStack) -> None:
    """Lock OUTPUT_DIR against other trainings until `held` ends; arguments as for `check_folder`.

    Raises:
        ConfigError: another process trains there, or has since the folder was checked.
    """
    if cfg.OUTPUT_DIR:
        held.enter_context(locked(Path(cfg.OUTPUT_DIR, LOCK)))
        check_folder(cfg, resume, data)


def _check_inputs(cfg: CfgNode, data: str, folder: Path, goes_on: bool) -> None:
    """Refuse a folder that the run itself reads from."""
    for key, path in _inputs(cfg, data):
        overwritten = _is_of_run(path, folder) if goes_on else _is_directly_in(path, folder)
        if overwritten and goes_on and key == "MODEL.WEIGHTS":
            raise ConfigError(
                f"MODEL.WEIGHTS is {str(path)!r}, a file of the run itself: leave it out, --resume "
                "goes on with the run's last checkpoint."
            )
        if overwritten:
            raise ConfigError(
                f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} is where {key} {str(path)!r} is, which the run "
                f"could overwrite: {_ELSEWHERE}."
            )


def _check_left(cfg: CfgNode, folder: Path, resume: bool, goes_on: bool) -> None:
    """Refuse a folder in which something else than this run has left files."""
    if not resume and holds_run(folder):
        raise ConfigError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds a run already: add --resume to go on with it, or "
            f"{_ELSEWHERE}."
        )
    if not goes_on and (folder / "results.json").is_file():
        raise ConfigError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds the results.json of an evaluation, which the run "
            f"would overwrite: {_ELSEWHERE}."
        )
    if resume and not goes_on and _has_checkpoints(folder, cfg):
        raise ConfigError(
            f"--resume: OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds checkpoints, but no last_checkpoint "
            f"that names the last of them: write its name into that file, or {_ELSEWHERE}."
        )
    if (folder / "config.yaml").is_file() and not any(map(Path.is_file, _logs(folder))):
        raise ConfigError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds a config.yaml that no run wrote there, and that "
            f"this one would overwrite: {_ELSEWHERE}."
        )


def _has_checkpoints(folder: Path, cfg: CfgNode) -> bool:
    """More than the first one, which a kill may leave before last_checkpoint names it."""
    scaled = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    first = f"model_{scaled.SOLVER.CHECKPOINT_PERIOD - 1:07d}.pth"
    found = [x for x in folder.glob("model_[0-9]*.pth") if x.name != first]
    return (folder / FINAL).exists() or bool(found)


def _logs(folder: Path) -> Tuple[Path, ...]:
    """What a run has written before its config.yaml, or soon after it."""
    return folder / "log.txt", folder / "run.json"


def _inputs(cfg: CfgNode, data: str) -> Iterator[Tuple[str, Path]]:
    """Keys and what they name, as far as it exists here: folders, and files."""
    teacher = cfg.DISTILL.TEACHER if cfg.MODEL.META_ARCHITECTURE in WITH_TEACHERS else None
    named = [("--data", data), ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)]
    named += [("MODEL.TIMM.CHECKPOINT", cfg.MODEL.TIMM.CHECKPOINT)]
    if teacher is not None:
        named += [("the teacher", path) for path in teacher.CONFIG_FILES]
        named += [("the teacher's checkpoint", path) for path in teacher.WEIGHTS]
        named += [("DISTILL.SetKD.OFFLINE", cfg.DISTILL.SetKD.OFFLINE)]
        named += [("DISTILL.MasKD.TOKENS", cfg.DISTILL.MasKD.TOKENS)]
    named += [("DATASETS.UNLABELLED", path) for path in cfg.DATASETS.UNLABELLED]
    for entry in cfg.DATASETS.CUSTOM:
        named += [("the data set", path) for path in _existing(entry)]
    for key, text in named:
        path = os.path.expanduser(split_pin(str(text))[0])
        if text and os.path.exists(path):
            yield key, Path(path)


def _existing(entry: object) -> Iterator[str]:
    """Annotations and images of an entry of DATASETS.CUSTOM, as far as they exist."""
    for path in entry[1:3] if isinstance(entry, (list, tuple)) else ():
        with contextlib.suppress(OSError, TypeError):
            yield find_path(path)


def _is_directly_in(path: Path, folder: Path) -> bool:
    """Whether `path` is the folder or a file in it, by whichever name."""
    if not folder.exists():
        return False
    places = [path] if path.is_dir() else [path.parent, path.resolve().parent]
    return any(place.exists() and place.samefile(folder) for place in places)


def _is_of_run(path: Path, folder: Path) -> bool:
    """Whether the run in a folder is itself what `path` names: the folder, or a file of a run's."""
    own = ("config.yaml", *_MARKS)
    named_so = path.is_dir() or any(path.match(name) for name in own)
    return named_so and _is_directly_in(path, folder)
