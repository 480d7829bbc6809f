"""What finished runs of a study have reached, read from their folders."""

import contextlib
import json
from pathlib import Path
from typing import Dict, Optional

from ..config.locate import moved_config
from ..errors import ConfigError
from .commands import Run
from .plan import Study

_FIRST_VERSION = ["train_net.py", "--config-file"]  # how d2kd 0.1.0 began what is now `d2kd train`


def read_result(run: Run) -> Optional[dict]:
    """The stored result of a run, None if it is not finished.

    Raises:
        ValueError: it was made with another command.
    """
    path = run.folder / "result.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    if result["command"][:2] == _FIRST_VERSION:
        result["command"][:2] = run.command[:2]
        result["command"] = [moved_config(word) for word in result["command"]]
    if result["command"] != run.command:
        raise ValueError(
            f"{path} was made by another command: {' '.join(result['command'])}. Now it would be: "
            f"{' '.join(run.command)}. Remove the folder to run it again, or rename the row."
        )
    return result


def value_of(run: Run, result: dict, metric: str) -> float:
    """The metric of a finished run; of another one than its study had then, the last logged.

    Args:
        run: what was trained.
        result: what `read_result` gives of it.
        metric: a key of metrics.json.

    Raises:
        ConfigError: it has logged none.
    """
    found = result.get(metric)
    value = last_value(run.folder / "metrics.json", metric) if found is None else found
    if value is None:
        raise ConfigError(f"{run.name} is finished without {metric}: metric must name what "
                          f"{run.folder / 'metrics.json'} has.")  # fmt: skip
    return float(value)


def collect(study: Study) -> Dict[str, Dict[int, float]]:
    """The metric of every finished run: row -> seed -> value."""
    found: Dict[str, Dict[int, float]] = {}
    for row, runs in study.rows.items():
        results = ((run, read_result(run)) for run in runs)
        found[row] = {run.seed: value_of(run, x, study.metric) for run, x in results if x}
    return found


def collect_more(study: Study) -> Dict[str, Dict[str, Dict[int, float]]]:
    """The further metrics of every finished run that has them: metric -> row -> seed -> value."""
    found: Dict[str, Dict[str, Dict[int, float]]] = {}
    for metric in study.more_metrics:
        found[metric] = {row: {} for row in study.rows}
        for run in study.runs:
            value = last_value(run.folder / "metrics.json", metric)
            if value is not None and read_result(run) is not None:
                found[metric][run.row][run.seed] = value
    return found


def last_value(path: Path, metric: str) -> Optional[float]:
    """The last value of a metric in Detectron2's metrics.json, None if it is not there."""
    if not path.is_file():
        return None
    for line in reversed(path.read_text().splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a full disk
            if f'"{metric}"' in line:
                return float(json.loads(line)[metric])
    return None
