"""The folders of two runs: what they were made of, and what they left."""

import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ...checkpoint.checkpointer import FINAL
from ...config.keys import flatten
from ...engine.changes import read_record, recorded_inputs
from ...engine.metrics_file import TIMES
from ...engine.run_files import read_metrics, read_values
from ...errors import ConfigError
from ...file_io import read_json
from .checkpoints import compare_checkpoints, read_checkpoint
from .configs import compare_inputs
from .part import Part, compare_values

_MADE_WITH = ("d2kd", "commit", "python", "torch", "detectron2", "device", "threads", "ranks")
_METRICS, _RESULTS = "metrics.json", "results.json"
Values = Tuple[Dict[str, Any], List[str]]  # and what could not be read


def compare_runs(a: Path, b: Path) -> List[Part]:
    """Compare inputs, what they ran with, metrics, the last common checkpoint and results.

    Raises:
        ConfigError: a checkpoint, config.yaml or run.json is damaged.
    """
    return [
        _inputs(a, b),
        _made_with(read_record(a), read_record(b)),
        _of_files(_METRICS, _read_metrics(a), _read_metrics(b)),
        *_of_checkpoints(a, b),
        _of_files(_RESULTS, _read_results(a), _read_results(b)),
    ]


def _inputs(a: Path, b: Path) -> Part:
    try:
        return compare_inputs(recorded_inputs(a), recorded_inputs(b))
    except (TypeError, AttributeError):
        raise ConfigError(
            f"{a / 'run.json'} or {b / 'run.json'} holds another config than a run writes there: "
            "put it back, or delete it."
        ) from None


def _made_with(a: Dict[str, Any], b: Dict[str, Any]) -> Part:
    """Versions and the machine, which explain differences and are none."""
    left, right = ({k: x[k] for k in _MADE_WITH if k in x} for x in (a, b))
    part = compare_values("run.json", "values", left, right, len(_MADE_WITH))
    part.free, part.found = part.found, []
    return part


def _of_files(name: str, a: Values, b: Values) -> Part:
    part = compare_values(name, "values", a[0], b[0])
    unread = [("A", x) for x in a[1] if x not in b[1]] + [("B", x) for x in b[1] if x not in a[1]]
    part.found += [f"{which}: {text}" for which, text in unread]
    return part


def _read_metrics(folder: Path) -> Values:
    """The values of each iteration, in order; times are left out."""
    missing: List[str] = []
    curves = read_metrics(folder / _METRICS, missing)
    points = [
        (step - 1, name, value)
        for name, curve in curves.items()
        for step, value in zip(*curve, strict=True)
        if name not in TIMES
    ]
    points.sort(key=lambda point: point[:2])
    return {f"iteration {step}: {name}": value for step, name, value in points}, missing


def _read_results(folder: Path) -> Values:
    missing: List[str] = []
    found = read_values(folder / _RESULTS, read_json, missing).get("results", {})
    return flatten(found, "/") if isinstance(found, dict) else {}, missing


def _of_checkpoints(a: Path, b: Path) -> List[Part]:
    """The last one of one name and iteration; each section is a part."""
    for name in _common(a, b):
        left, right = read_checkpoint(str(a / name)), read_checkpoint(str(b / name))
        if left.get("iteration") == right.get("iteration"):
            parts = compare_checkpoints(left, right)
            for part in parts:
                part.name = f"{name}, {part.name}"
            return parts
    part = Part("checkpoints", "files")
    have = [any(x.glob("model_*.pth")) for x in (a, b)]
    part.found = ["none is of one iteration in both"] if any(have) else []
    return [part]


def _common(a: Path, b: Path) -> List[str]:
    """Names that both have, the last first."""
    names = {x.name for x in a.glob("model_*.pth")} & {x.name for x in b.glob("model_*.pth")}
    numbered = sorted((x for x in names if re.fullmatch(r"model_\d+\.pth", x)), reverse=True)
    return [*(x for x in (FINAL,) if x in names), *numbered]
