"""Exported files beside the runs that they were made of."""

import math
from pathlib import PurePath
from typing import Callable, Dict, List, Sequence

from .pairs import data_of
from .runs import RunFolder

_BATCHES = (1, 8)


def is_of_file(run: RunFolder) -> bool:
    """Whether the folder is that of `d2kd eval FILE`, and of no run."""
    return "file/MB" in run.results and not run.config


def file_table(runs: Sequence[RunFolder], files: Sequence[RunFolder]) -> Dict[str, List[str]]:
    """What is measured -> its value for each run's detector in PyTorch, then for each file."""

    def shown(value: float, spec: str) -> str:
        return format(value, spec) if math.isfinite(value) else "-"

    def result(key: str, spec: str) -> Callable[[RunFolder], str]:
        return lambda run: shown(run.results.get(key, math.nan), spec)

    def size(run: RunFolder) -> str:
        return shown(run.costs.get("MB of weights", run.results.get("file/MB", math.nan)), ".1f")

    rows: Dict[str, Callable[[RunFolder], str]] = {
        "file": _name,
        **{key: result(f"bbox/{key}", ".2f") for key in ("AP", "AP50", "AP75")},
        "MB": size,
    }
    for count in _BATCHES:
        key = f"file/ms/batch {count}"
        if any(f"{key}/median" in x.results for x in files):
            rows[f"ms per image, batch {count}"] = result(f"{key}/median", ".1f")
            rows[f"95 %, batch {count}"] = result(f"{key}/p95", ".1f")
    return {name: [value(run) for run in (*runs, *files)] for name, value in rows.items()}


def other_data(runs: Sequence[RunFolder], files: Sequence[RunFolder]) -> List[str]:
    """A sentence for each file that was evaluated on other annotations than the first run."""
    first = sorted(data_of(runs[0], "TEST"))
    return [
        f"{file.name} was evaluated on other data than {runs[0].name}: AP cannot be compared."
        for file in files
        if first and _data(file) not in ([], first)
    ]


def _name(run: RunFolder) -> str:
    paths = run.evaluated.get("weights") if is_of_file(run) else None
    return PurePath(next(iter(paths))).name if isinstance(paths, dict) and paths else "PyTorch"


def _data(run: RunFolder) -> List[str]:
    found = run.evaluated.get("datasets")
    return sorted(str(v or k) for k, v in found.items()) if isinstance(found, dict) else []
