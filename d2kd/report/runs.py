"""What a run left in its folder."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Tuple

import yaml

from ..errors import ConfigError

Curve = Tuple[List[int], List[float]]


@dataclass
class RunFolder:
    """A run's folder, read; what it lacks is empty, and named in `missing`.

    Attributes:
        metrics: name -> (iterations counted from 1, values).
        results: metric -> value, such as "bbox/AP", of the last evaluation.
        record: run.json.
        config: config.yaml, key with dots -> value.
        pictures: kind -> PNG files of the last time that they were drawn.
        missing: sentences.
    """

    name: str
    folder: Path
    metrics: Dict[str, Curve] = field(default_factory=dict)
    results: Dict[str, float] = field(default_factory=dict)
    record: Dict[str, Any] = field(default_factory=dict)
    config: Dict[str, Any] = field(default_factory=dict)
    pictures: Dict[str, List[Path]] = field(default_factory=dict)
    missing: List[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps that were done."""
        return max(self.metrics.get("total_loss", ([0], []))[0], default=0)

    @property
    def hours(self) -> float:
        """Training time: the steps times their mean time."""
        times = self.metrics.get("time", ([], []))[1]
        return self.steps * sum(times) / len(times) / 3600 if times else 0.0

    @property
    def command(self) -> str:
        """The command that was typed."""
        return shlex.join(self.record.get("command", []))

    @property
    def distils(self) -> bool:
        """Whether a teacher takes part."""
        return self.config.get("MODEL.META_ARCHITECTURE") == "Distiller"


def read_run(folder: Path, name: str) -> RunFolder:
    """Read a run's folder; a run that is still going is read as far as it is.

    Raises:
        ConfigError: it is not the folder of a run.
    """
    run = RunFolder(name, folder)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is not the folder of a run: it has no config.yaml.")
    run.config = _flatten(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    run.metrics = _read_metrics(folder / "metrics.json", run.missing)
    run.record = _read_json(folder / "run.json", run.missing)
    results = _read_json(folder / "results.json", run.missing).get("results", {})
    run.results = {k: v for k, v in _flatten(results, "/").items() if isinstance(v, (int, float))}
    for kind in ("detections", "maps"):
        files = sorted((folder / kind).glob("image*_*.png"))
        last = max((x.stem.rpartition("_")[2] for x in files), default="")
        run.pictures[kind] = [x for x in files if x.stem.endswith(last)]
    if run.steps < run.config.get("SOLVER.MAX_ITER", 0):
        run.missing.append(f"{run.steps} of {run.config['SOLVER.MAX_ITER']} steps are done.")
    return run


def different_keys(runs: List[RunFolder]) -> Dict[str, List[Any]]:
    """Config keys whose values are not the same in all runs, the output folder aside."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values = {key: [run.config.get(key, "") for run in runs] for key in keys}
    return {
        key: found
        for key, found in values.items()
        if key != "OUTPUT_DIR" and any(value != found[0] for value in found)
    }


def _flatten(node: Any, dot: str = ".", prefix: str = "") -> Dict[str, Any]:
    found = {}
    for key, value in (node or {}).items():
        inner = isinstance(value, dict)
        found.update(
            _flatten(value, dot, f"{prefix}{key}{dot}") if inner else {f"{prefix}{key}": value}
        )
    return found


def _read_json(path: Path, missing: List[str]) -> Dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else {}
    except (OSError, ValueError):
        missing.append(f"{path.name} is missing or cannot be read.")
        return {}


def _read_metrics(path: Path, missing: List[str]) -> Dict[str, Curve]:
    metrics: Dict[str, Curve] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    bad = 0
    for line in lines:
        try:
            row = json.loads(line)
            step = int(row.pop("iteration")) + 1
        except (ValueError, KeyError, TypeError, AttributeError):
            bad += 1
            continue
        for name, value in row.items():
            if isinstance(value, (int, float)):
                steps, values = metrics.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    if bad or not lines:
        missing.append(f"{bad} lines of metrics.json cannot be read." if lines
                       else "metrics.json is missing.")  # fmt: skip
    return metrics
