"""What a resumed run is made of, compared with what it was made of before."""

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from ..config.keys import flatten
from ..config.loading import teacher_config
from ..errors import ConfigError
from ..file_io import read_json, read_yaml
from ..teachers.teacher import teacher_weights
from .provenance import describe_run, write_json

Inputs = Dict[str, Any]  # see `inputs_of`
_FREE = ("OUTPUT_DIR", "VERSION", "CUDNN_BENCHMARK", "DETERMINISTIC", "VIS_PERIOD", "MODEL.DEVICE",
         "DATALOADER.NUM_WORKERS", "DATALOADER.SKIP_BAD_IMAGES", "SOLVER.CHECKPOINT_PERIOD",
         "SOLVER.CHECKPOINTS_TO_KEEP", "SOLVER.BEST_METRIC", "SOLVER.REFERENCE_WORLD_SIZE",
         "SOLVER.GUARD.", "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "DISTILL.PICTURES.",
         "DISTILL.GRADIENT_PERIOD", "DISTILL.TEACHER.CACHE_", "DISTILL.TEACHER.CHECK_")  # fmt: skip
_BY_CONTENT = ("DATASETS.CUSTOM", "DATASETS.TRAIN", "DATASETS.TEST", "MODEL.WEIGHTS",
               "DISTILL.TEACHER.CONFIG_FILES", "DISTILL.TEACHER.WEIGHTS")  # fmt: skip
_NOTHING = "no file"
_OF_A_TEACHER = ("MODEL.", "INPUT.FORMAT")


class Change(NamedTuple):
    """A key or file, its values before and now, and whether a run may go on with the new one."""

    what: str
    before: Any
    now: Any
    allowed: bool = False

    def __str__(self) -> str:
        return f"{self.what} was {_short(self.before)} and is {_short(self.now)}"


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
    distils = cfg.MODEL.META_ARCHITECTURE == "Distiller"
    indices = range(len(cfg.DISTILL.TEACHER.CONFIG_FILES) if distils else 0)
    files = [teacher_weights(cfg, i) for i in indices]
    run = run or describe_run(cfg, [cfg.MODEL.WEIGHTS, *files])
    found = {key: run[key] for key in ("datasets", "weights", "classes")}
    teachers = [dict(flatten(teacher_config(cfg, i))) for i in indices]
    found["teachers"] = [
        {k: v for k, v in keys.items() if k.startswith(_OF_A_TEACHER)} for keys in teachers
    ]
    found |= {"config": dict(flatten(cfg)), "teachers' weights": files}
    return json.loads(json.dumps(found, default=str))


def read_record(folder: Path) -> Dict[str, Any]:
    """What is in the run.json of a folder; empty where there is none, or a damaged one."""
    try:
        record = read_json(folder / "run.json")
    except ConfigError:
        return {}
    return record if isinstance(record, dict) else {}


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


def recorded_inputs(folder: Path) -> Inputs:
    """`inputs_of` the run in a folder; what earlier versions did not record is not in it."""
    record = read_record(folder)
    if isinstance(record.get("inputs"), dict):
        return record["inputs"]
    known: Inputs = {
        key: record[key] for key in ("datasets", "weights", "classes") if key in record
    }
    if (folder / "config.yaml").is_file():
        known["config"] = dict(flatten(read_yaml(folder / "config.yaml") or {}))
    return known


def find_changes(before: Inputs, now: Inputs) -> List[Change]:
    """Differences of what both know."""
    if not before:
        return []
    old, new = before.get("config", {}), now["config"]
    changes = [*_of_keys(old, new, ""), *_of_data(before, now), *_of_weights(before, now)]
    teachers = zip(before.get("teachers", []), now["teachers"], strict=False)
    for index, (a, b) in enumerate(teachers):
        changes += _of_keys(a, b, f"teacher {index}: ")
    if before.get("classes") and now["classes"] and before["classes"] != now["classes"]:
        changes.append(Change("the classes", before["classes"], now["classes"]))
    return changes


def refuse_changes(changes: Sequence[Change], anyway: bool) -> None:
    """Stop before a run goes on with something else than it began with.

    Raises:
        ConfigError: one of the changes is not allowed, and not wanted `anyway`.
    """
    wrong = [change for change in changes if not change.allowed]
    if any(change.what == "SOLVER.OPTIMIZER" for change in wrong):
        raise ConfigError(
            "--resume: SOLVER.OPTIMIZER is another than the run's, whose state it cannot read: "
            "begin another run, with MODEL.WEIGHTS set to this one's last checkpoint."
        )
    if wrong and not anyway:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ConfigError(
            f"--resume: {'; '.join(map(str, wrong[:5]))}{more}. Put it back, begin another run "
            "with another OUTPUT_DIR, or go on with the change by --resume-anyway."
        )


def _of_keys(old: Dict[str, Any], new: Dict[str, Any], prefix: str) -> Iterator[Change]:
    for key in new:
        if key in _BY_CONTENT or key not in old or _same(old[key], new[key]):
            continue
        longer = key == "SOLVER.MAX_ITER" and new[key] > old[key]
        yield Change(prefix + key, old[key], new[key], longer or key.startswith(_FREE))


def _same(old: Any, new: Any) -> bool:
    """A list that is written as text in an old yaml is not understood, so nothing is said of it."""
    return old == new or isinstance(old, str) and isinstance(new, list)


def _of_data(before: Inputs, now: Inputs) -> Iterator[Change]:
    if "datasets" not in before or "config" not in before:
        return
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        old, new = before["config"].get(key), now["config"][key]
        if not isinstance(old, list):
            continue
        a = [(name, before["datasets"].get(name, "")) for name in old]
        b = [(name, now["datasets"].get(name, "")) for name in new]
        if len(a) != len(b) or not all(map(_same_file, a, b)):
            yield Change(key, _names(a), _names(b, with_path=True))
        elif old != new:
            yield Change(f"{key}, by name", old, new, allowed=True)


def _of_weights(before: Inputs, now: Inputs) -> Iterator[Change]:
    if "weights" not in before or "config" not in before:
        return
    old, new = _split_weights(before), _split_weights(now)
    for what, a, b in zip(("MODEL.WEIGHTS", "the teachers' weights"), old, new, strict=True):
        if len(a) != len(b) or not all(map(_same_file, a, b)):
            yield Change(what, _names(a), _names(b))


def _split_weights(inputs: Inputs) -> Tuple[List[Tuple[str, str]], List[Tuple[str, str]]]:
    """Paths with SHA-256: what the student starts from, and the others."""
    files, start = inputs["weights"], inputs["config"].get("MODEL.WEIGHTS", "")
    others = inputs.get("teachers' weights", [path for path in files if path != start])
    pairs = [[(path, files.get(path, "")) for path in paths] for paths in ([start], others)]
    return ([x for x in pairs[0] if x[0]], pairs[1])


def _same_file(old: Tuple[str, str], new: Tuple[str, str]) -> bool:
    """By content where both are known, otherwise by name."""
    return old[1] == new[1] if old[1] and new[1] else old[0] == new[0]


def _names(files: List[Tuple[str, str]], with_path: bool = False) -> str:
    texts = []
    for name, digest in files:
        path = MetadataCatalog.get(name).get("json_file", "") if with_path else ""
        texts.append(f"{name}{f' ({path})' * bool(path)}{f' sha256 {digest[:8]}' * bool(digest)}")
    return ", ".join(texts) or _NOTHING


def _short(value: Any) -> str:
    is_file = isinstance(value, str) and (" sha256 " in value or value == _NOTHING)
    text = value if is_file else repr(value)
    return text if len(text) < 300 else text[:300] + "..."
