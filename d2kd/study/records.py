"""What each run of a study depended on, kept in its report."""

import hashlib
import json
from typing import Any, Dict, List

from ..engine.changes import read_record
from ..engine.compare import keys_that_count
from .commands import Run
from .plan import Study
from .trainings import read_result

_KEPT = (
    "commit", "d2kd", "python", "torch", "detectron2", "device", "cpu", "threads", "ranks", "seed",
    "datasets", "weights",
)  # fmt: skip
_COMPARED = ("commit", "torch", "detectron2", "datasets", "weights", "config")


def collect_records(study: Study) -> Dict[str, Dict[int, Dict[str, Any]]]:
    """The record of every finished run: row -> seed -> what it depended on.

    That are, of its run.json, versions, git commit, device, kind of CPU, threads, ranks, seed and
    the SHA-256 of data and weights; the SHA-256 of its config, without keys that change nothing in
    what is learnt; and its command.
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
    config = keys_that_count(whole.get("inputs", {}).get("config", {}))
    text = json.dumps(config, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"command": run.command, **kept, "config": digest}


def differences(run: Run, record: Dict[str, Any]) -> List[str]:
    """In what a run's record differs from another one, of what its numbers can depend on."""
    own = record_of(run)
    return [key for key in _COMPARED if own.get(key) != record.get(key)]
