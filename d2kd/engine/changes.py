"""What a resumed run is made of, compared with what it was made of before."""

import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from ..checkpoint import run_checkpoint
from ..config.keys import WITH_TEACHERS, flatten
from ..config.loading import teacher_config
from ..errors import ConfigError
from ..file_io import read_json, read_yaml, sha256_of
from ..teachers.from_config import teacher_weights
from .compare import Inputs, find_changes, refuse_changes
from .provenance import describe_run, write_json

_OF_A_TEACHER = ("MODEL.", "INPUT.FORMAT")
_OF_TRAINING = "MODEL.CHANNELS_LAST"  # which a teacher does not read
Holds = Callable[[Any], bool]


def _is(kind: type) -> Holds:
    return lambda value: isinstance(value, kind)


def _list(holds: Holds) -> Holds:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _dict(holds: Holds) -> Holds:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _keys(known: Dict[str, Holds]) -> Holds:
    """A dictionary in which the known keys hold, as far as they are there."""
    return lambda value: (
        isinstance(value, dict) and all(holds(value[k]) for k, holds in known.items() if k in value)
    )


_SHAPE = {
    "datasets": _dict(_is(str)), "weights": _dict(_is(str)), "classes": _list(_is(str)),
    "teachers": _list(_is(dict)), "teachers' weights": _list(_is(str)), "config": _is(dict),
}  # fmt: skip
_SEGMENT = _keys({"changes": _dict(lambda pair: isinstance(pair, list) and len(pair) == 2)})
_is_record = _keys({
    **_SHAPE, "inputs": _keys(_SHAPE), "command": _list(_is(str)), "ranks": _is(int),
    "segments": _list(lambda x: _SEGMENT(x) and isinstance(x.get("first_iteration"), int)),
})  # fmt: skip


def inputs_of(cfg: CfgNode, run: Dict[str, Any] | None = None) -> Inputs:
    """What the steps of a training depend on, as json has it.

    Args:
        cfg: scaled to the number of ranks, with its data sets registered.
        run: its `describe_run`; None makes it.

    Returns:
        `config`, every key with dots; `teachers`, the keys of each teacher that matter, and
        `teachers' weights`, their paths; `datasets`, `weights` and `classes` as `describe_run`
        gives them.
    """
    learns = cfg.MODEL.META_ARCHITECTURE in WITH_TEACHERS
    indices = range(len(cfg.DISTILL.TEACHER.CONFIG_FILES) if learns else 0)
    files = [teacher_weights(cfg, i) for i in indices]
    run = run or describe_run(cfg, [*files_of(cfg), *files])
    found = {key: run[key] for key in ("datasets", "weights", "classes")}
    teachers = [dict(flatten(teacher_config(cfg, i))) for i in indices]
    found["teachers"] = [
        {k: v for k, v in keys.items() if k.startswith(_OF_A_TEACHER) and k != _OF_TRAINING}
        for keys in teachers
    ]
    found |= {"config": dict(flatten(cfg)), "teachers' weights": files}
    return as_json(found)


def files_of(cfg: CfgNode) -> List[str]:
    """What a training reads beside its data and its teachers' checkpoints; MasKD's is a folder."""
    read = cfg.MODEL.WEIGHTS, cfg.MODEL.TIMM.CHECKPOINT, cfg.DISTILL.SetKD.OFFLINE
    return [*read, cfg.DISTILL.MasKD.TOKENS]


def read_record(folder: Path) -> Dict[str, Any]:
    """What is in the run.json of a folder; empty where there is none, or a damaged one."""
    try:
        record = read_json(folder / "run.json")
    except ConfigError:
        return {}
    return record if _is_record(record) else {}


def check_resumed(cfg: CfgNode, anyway: bool) -> None:
    """Check that the run in OUTPUT_DIR goes on with what it began with, before anything is written.

    What an earlier version recorded in config.yaml, which is written anew, is kept in run.json.

    Raises:
        ConfigError: see `refuse_changes`.
    """
    folder = Path(cfg.OUTPUT_DIR)
    before = recorded_inputs(folder)
    if not before or not (folder / "last_checkpoint").is_file():
        return
    now = inputs_of(DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()))
    refuse_changes(find_changes(before, now), anyway)
    record = read_record(folder)
    if record and "inputs" not in record:
        write_json(folder / "run.json", {**record, "inputs": before})


def begun_teachers(cfg: CfgNode) -> Tuple[str, ...]:
    """DISTILL.TEACHER.WEIGHTS of a run that goes on: the last of a run that it began with stays."""
    known = read_record(Path(cfg.OUTPUT_DIR)).get("weights", {}).values()
    teacher = cfg.DISTILL.TEACHER
    files = [*teacher.WEIGHTS, *[""] * (len(teacher.CONFIG_FILES) - len(teacher.WEIGHTS))]
    for index, (name, file) in enumerate(zip(teacher.CONFIG_FILES, files, strict=False)):
        is_run = known and not file and os.path.isdir(name)
        if is_run and sha256_of(run_checkpoint(name)[0]) not in known:
            last = run_checkpoint(name, last=True)[0]
            files[index] = last if sha256_of(last) in known else ""
    return tuple(files)


def recorded_inputs(folder: Path) -> Inputs:
    """`inputs_of` the run in a folder; what earlier versions did not record is not in it."""
    record = read_record(folder)
    if isinstance(record.get("inputs"), dict):
        return record["inputs"]
    known: Inputs = {
        key: record[key] for key in ("datasets", "weights", "classes") if key in record
    }
    if (folder / "config.yaml").is_file():
        known["config"] = _scaled(folder / "config.yaml", record.get("ranks", 1))
    return known


def _scaled(path: Path, ranks: int) -> Dict[str, Any]:
    """The keys of a run's config.yaml, which is that of its reference number of ranks."""
    keys = read_yaml(path)
    try:
        cfg = DefaultTrainer.auto_scale_workers(CfgNode(keys), ranks)
    except (AssertionError, AttributeError, TypeError, ArithmeticError):
        raise ConfigError(
            f"{path} is not what a run writes there: put it back, or delete it."
        ) from None
    return as_json(dict(flatten(cfg)))


def as_json(value: Dict[str, Any]) -> Dict[str, Any]:
    """A copy as a json file gives it back, with lists for tuples."""
    read: Dict[str, Any] = json.loads(json.dumps(value, default=str))
    return read
