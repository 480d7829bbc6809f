"""What a result depends on, written next to it."""

import functools
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from .. import __version__
from ..checkpoint.address import local_file
from ..checkpoint.weights_file import split_pin
from ..cores import cpu_kind
from ..data.image_files import list_images
from ..errors import MissingFileError
from ..file_io import sha256_of, write_atomically
from ..heads.tokens_file import file_of

PACKAGE = Path(__file__).parent.parent


def describe_run(cfg: CfgNode, weights: Sequence[str] = ()) -> Dict[str, Any]:
    """Everything that a number depends on beside the config.

    Args:
        cfg: config whose data sets are registered.
        weights: paths or URLs of the weights that are read: the start's, the teachers'.

    Returns:
        Command, versions, git commit ("+changes" behind it when files differ from it), device, kind
        of CPU, threads, ranks, seed, SHA-256 of each data set's annotation file, of each list of
        unlabelled images and of each weights file.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    datasets = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    return {
        "command": command(),
        "d2kd": __version__,
        "commit": git_commit(PACKAGE),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "device": gpu if cfg.MODEL.DEVICE.startswith("cuda") else cfg.MODEL.DEVICE,
        "cpu": cpu_kind(),
        "threads": torch.get_num_threads(),
        "ranks": comm.get_world_size(),
        "seed": cfg.SEED,
        "datasets": {
            name: dataset_fingerprint(name) for name in (*datasets, *cfg.DATASETS.UNLABELLED)
        },
        "weights": {path: _weights_sha256(path) for path in weights if path},
        "classes": next((list(_classes(name)) for name in datasets if _classes(name)), []),
    }


def command() -> List[str]:
    """The command of this process as it was typed, or would be."""
    program = Path(sys.argv[0])
    is_ours = program.name == "__main__.py" and program.parent == PACKAGE
    return ["d2kd" if is_ours or program.name == "d2kd" else sys.argv[0], *sys.argv[1:]]


def _classes(name: str) -> Sequence[str]:
    return MetadataCatalog.get(name).get("thing_classes") or []


def git_commit(folder: Path) -> str:
    """The commit of the work tree whose root holds `folder`, "" where there is none.

    Of another work tree around it nothing is asked: its settings can name programs to run.
    """
    try:
        if Path(_git(folder, "rev-parse", "--show-toplevel")) != folder.resolve().parent:
            return ""
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "-uno", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def dataset_fingerprint(name: str) -> str:
    """SHA-256 of a data set's annotation file, or of the names and sizes of a folder's images.

    "" where neither is known or here. Images are not read.
    """
    if name not in DatasetCatalog:
        folder = Path(os.path.expanduser(name))
        return _listing_sha256(folder) if folder.is_dir() else ""
    path = MetadataCatalog.get(name).get("json_file", "")
    local = PathManager.get_local_path(path) if path else ""
    return _sha256_of(local) if os.path.isfile(local) else ""


def _listing_sha256(folder: Path) -> str:
    images = [x for x in list_images(folder).images if x.is_file()]
    lines = [f"{x.relative_to(folder).as_posix()}\0{x.stat().st_size}\n" for x in images]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _sha256_of(path: str) -> str:
    """Of a file that is hashed anew only if it has changed."""
    state = os.stat(path)
    return _known_sha256(path, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache
def _known_sha256(path: str, *state: int) -> str:
    return sha256_of(path)


def write_results(cfg: CfgNode, results: Dict[str, Any], run: Dict[str, Any]) -> None:
    """Write OUTPUT_DIR/results.json on the first rank: `results`, and the `run` they are of."""
    if not comm.is_main_process() or not cfg.OUTPUT_DIR:
        return
    write_json(Path(cfg.OUTPUT_DIR, "results.json"), {"results": json_values(results), "run": run})


def write_json(path: Path, data: Dict[str, Any]) -> None:
    """Write a dictionary, completely or not at all; its folder is made."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: part.write_text(text))


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", os.fspath(folder), "-c", "core.fsmonitor=false", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _weights_sha256(path: str) -> str:
    """Empty for what is no file here, such as an address that was not downloaded."""
    try:
        local = file_of(Path(local_file(split_pin(path)[0].partition("?")[0])))
    except MissingFileError:
        return ""
    return _sha256_of(str(local)) if local.is_file() else ""


def json_values(value: Any) -> Any:
    """A value as JSON has it: NaN is null, as for an AP of classes without objects."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_values(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
