"""What each run of a study depended on, kept in its report."""

import hashlib
import json
from typing import Any, Dict, List

from ..engine.changes import read_record
from ..engine.compare import keys_that_count
from .commands import Run
from .plan import Study
from .results import read_result

_KEPT = (
    "commit", "d2kd", "python", "torch", "detectron2", "device", "cpu", "threads", "ranks", "seed",
    "datasets", "weights",
)  # fmt: skip
_COMPARED = (
    "d2kd", "python", "torch", "detectron2", "device", "cpu", "threads", "ranks", "config",
)  # fmt: skip


def collect_records(study: Study) -> Dict[str, Dict[int, Dict[str, Any]]]:
    """The record of every finished run: row -> seed -> what it depended on.

    That are, of its run.json, versions, git commit, device, kind of CPU, threads, ranks, seed and
    the SHA-256 of annotations and weights; the SHA-256 of its config and its teachers', without
    keys that change nothing in what is learnt; and its command.
    """
    found: Dict[str, Dict[int, Dict[str, Any]]] = {}
    for run in study.runs:
        if read_result(run) is not None and (record := record_of(run)):
            found.setdefault(run.row, {})[run.seed] = record
    return found


def record_of(run: Run) -> Dict[str, Any]:
    """The record of one run; {} where it has no run.json."""
    whole = read_record(run.folder)
    if not whole:
        return {}
    kept = {key: whole[key] for key in _KEPT if key in whole}
    inputs = whole.get("inputs", {})
    configs = [inputs.get("config", {}), *inputs.get("teachers", [])]
    text = json.dumps([keys_that_count(config) for config in configs], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"command": run.command, **kept, "config": digest}


def compare_records(one: Dict[str, Any], other: Dict[str, Any]) -> List[str]:
    """In what two runs differ, of what their numbers can depend on.

    Data and weights are compared by content. Code is known by a git commit without changes alone.
    """
    found = [key for key in _COMPARED if one.get(key) != other.get(key)]
    for key in ("datasets", "weights"):
        if _digests(one.get(key)) != _digests(other.get(key)):
            found.append(key)
    commits = one.get("commit", ""), other.get("commit", "")
    if any(not x or x.endswith("+changes") for x in map(str, commits)):
        return [*found, "code (unknown: no commit, or changes to it)"]
    return found + ["commit"] * (commits[0] != commits[1])


def _digests(hashes: Any) -> List[str]:
    return sorted(map(str, hashes.values())) if isinstance(hashes, dict) else []
