"""What a run was made of before and now: what has changed, and what a run may go on with."""

from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from detectron2.data import MetadataCatalog

from ..config.defaults import get_d2kd_cfg
from ..config.keys import flatten
from ..errors import ConfigError

Inputs = Dict[str, Any]  # see `d2kd.engine.changes.inputs_of`
FREE = ("OUTPUT_DIR", "VERSION", "CUDNN_BENCHMARK", "DETERMINISTIC", "VIS_PERIOD", "MODEL.DEVICE",
        "DATALOADER.NUM_WORKERS", "DATALOADER.SKIP_BAD_IMAGES", "SOLVER.CHECKPOINT_PERIOD",
        "SOLVER.CHECKPOINTS_TO_KEEP", "SOLVER.BEST_METRIC", "SOLVER.REFERENCE_WORLD_SIZE",
        "SOLVER.GUARD.", "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "DISTILL.PICTURES.",
        "DISTILL.GRADIENT_PERIOD", "DISTILL.TEACHER.CACHE_DIR", "DISTILL.TEACHER.CACHE_GB",
        "DISTILL.TEACHER.CHECK_",
        "DISTILL.TEACHER.AHEAD", "DISTILL.TEACHER.DEVICE", "DISTILL.TEACHER.THREADS",
        "DISTILL.TEACHER.DEADLINE")  # fmt: skip
"""Beginnings of the keys that change nothing in what is learnt."""

_DATA = ("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.UNLABELLED")
_STARTS = ("MODEL.WEIGHTS", "MODEL.TIMM.CHECKPOINT", "DISTILL.SetKD.OFFLINE",
           "DISTILL.MasKD.TOKENS")  # fmt: skip
_BY_CONTENT = (*_DATA, *_STARTS, "DATASETS.CUSTOM", "DISTILL.TEACHER.CONFIG_FILES",
               "DISTILL.TEACHER.WEIGHTS", "MODEL.TRANSFORMERS.FOLDER",
               "MODEL.LAZY_CONFIG")  # fmt: skip
_NOTHING, _TEACHERS = "no file", "teachers' weights"


class Change(NamedTuple):
    """A key or file, its values before and now, and whether a run may go on with the new one."""

    what: str
    before: Any
    now: Any
    allowed: bool = False

    def __str__(self) -> str:
        return f"{self.what} was {_short(self.before)} and is {_short(self.now)}"


def find_changes(before: Inputs, now: Inputs) -> List[Change]:
    """Differences of what both know; keys that the version of `before` lacks had their defaults."""
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


def keys_that_count(config: Dict[str, Any]) -> Dict[str, Any]:
    """Of a flat config, the keys that change what is learnt and name neither files nor data."""
    free = (*FREE, *_BY_CONTENT)
    return {key: value for key, value in config.items() if not key.startswith(free)}


def key_changes(before: Dict[str, Any], now: Dict[str, Any]) -> List[Change]:
    """Differences of the keys of two whole configs as json has them; files and data by name."""
    return list(_of_keys(before, now, "", ()))


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


def _of_keys(
    old: Dict[str, Any], new: Dict[str, Any], prefix: str, left_out: Sequence[str] = _BY_CONTENT
) -> Iterator[Change]:
    old = {**dict(flatten(get_d2kd_cfg())), **old} if old else {}
    for key in new:
        if key in left_out or key not in old or _same(old[key], new[key]):
            continue
        longer = key == "SOLVER.MAX_ITER" and new[key] > old[key]
        yield Change(prefix + key, old[key], new[key], longer or key.startswith(FREE))


def _same(old: Any, new: Any) -> bool:
    """A list that is written as text in an old yaml is not understood, so nothing is said of it."""
    old = list(old) if isinstance(old, tuple) else old
    return old == new or isinstance(old, str) and isinstance(new, list)


def _of_data(before: Inputs, now: Inputs) -> Iterator[Change]:
    if "datasets" not in before or "config" not in before:
        return
    for key in _DATA:
        old, new = before["config"].get(key), now["config"].get(key, [])
        if not isinstance(old, list):
            continue
        a = _with_content(old, before["datasets"])
        b = _with_content(new, now["datasets"])
        if len(a) != len(b) or not all(map(_same_file, a, b)):
            yield Change(key, _names(a), _names(b, with_path=True))
        elif old != new:
            yield Change(f"{key}, by name", old, new, allowed=True)


def _of_weights(before: Inputs, now: Inputs) -> Iterator[Change]:
    if "weights" not in before or "config" not in before:
        return
    starts = list(_of_starts(before, now))
    yield from starts
    a = _with_content(before[_TEACHERS if _TEACHERS in before else "weights"], before["weights"])
    b = _with_content(now.get(_TEACHERS, []), now["weights"])
    if _TEACHERS in before:
        same = len(a) == len(b) and all(map(_same_file, a, b))
    else:  # earlier versions recorded each file once, the start's among them
        start = _with_content([now["config"].get("MODEL.WEIGHTS")], now["weights"])
        same = bool(starts) or _covers(a, start + b) and _covers(b, a)
    if not same:
        yield Change(f"the {_TEACHERS}", _names(a), _names(b))


def _of_starts(before: Inputs, now: Inputs) -> Iterator[Change]:
    for key in _STARTS:
        if key in before["config"]:
            a = _with_content([before["config"][key]], before["weights"])
            b = _with_content([now["config"].get(key, "")], now["weights"])
            if not _same_file(a[0], b[0]):
                yield Change(key, _names(a), _names(b))


def _with_content(names: Iterable[Any], known: Dict[str, str]) -> List[Tuple[str, str]]:
    """Names with their SHA-256, "" where it is not known."""
    return [(str(name), known.get(str(name), "")) for name in names]


def _covers(files: List[Tuple[str, str]], others: List[Tuple[str, str]]) -> bool:
    return all(any(_same_file(file, x) for x in others) for file in files)


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
