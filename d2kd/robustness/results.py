"""Results of evaluations, each a file with what it depends on."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

from ..config.defaults import get_d2kd_cfg
from ..config.keys import flatten
from ..engine.provenance import dataset_fingerprint, json_values
from ..errors import ConfigError
from ..file_io import write_text
from ..text import file_name
from .cells import Cell
from .plan import Plan
from .subject import Results, Subject, load_subject

_SECTIONS = ("MODEL.", "INPUT.", "TEST.", "QUANTIZE.")
_FREE = ("MODEL.WEIGHTS", "MODEL.DEVICE")


def load_subjects(plan: Plan) -> List[Subject]:
    """Read the configs of all models.

    Raises:
        ConfigError: see `load_subject`, or the models are tested on different data.
    """
    subjects = [load_subject(plan, name) for name in plan.models]
    tested = {x.name: x.cfg.DATASETS.TEST[0] for x in subjects}
    if len({dataset_fingerprint(name) or name for name in tested.values()}) > 1:
        raise ConfigError(
            f"the models are tested on different data sets: {tested}. Name one in the plan: "
            "dataset, and its entry in datasets if no config registers it."
        )
    return subjects


def identity(plan: Plan, subject: Subject, cell: Cell) -> Dict[str, Any]:
    """What a result depends on: weights, model, data and the cell's options."""
    # through JSON, where a tuple of the defaults and a list of a run's yaml are the same
    defaults, values = (json.loads(json.dumps(flatten(x))) for x in (get_d2kd_cfg(), subject.cfg))
    changed = {key: x for key, x in values.items() if defaults.get(key) != x}
    dataset = cell.options.get("dataset", subject.cfg.DATASETS.TEST[0])
    return {
        "weights": next(iter(subject.run["weights"].values())),
        "config": {k: x for k, x in changed.items() if k.startswith(_SECTIONS) and k not in _FREE},
        "dataset": {dataset: dataset_fingerprint(dataset)},
        "images": plan.images,
        "cell": json_values(cell.options),
    }


def result_path(plan: Plan, model: str, cell: Cell) -> Path:
    """The file of one result."""
    return plan.output / file_name(model) / f"{file_name(cell.name)}.json"


def write_result(plan: Plan, subject: Subject, cell: Cell, result: Dict[str, Any]) -> None:
    """Store a result with its identity and circumstances."""
    path = result_path(plan, subject.name, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"identity": identity(plan, subject, cell), **json_values(result), "run": subject.run}
    write_text(path, json.dumps(data, indent=1))


def read_result(plan: Plan, subject: Subject, cell: Cell) -> Optional[Results]:
    """The stored result of an evaluation, None if it is not finished.

    Raises:
        ConfigError: it was made with other settings.
    """
    path = result_path(plan, subject.name, cell)
    if not path.is_file():
        return None
    data = json.loads(path.read_text())
    now = json.loads(json.dumps(identity(plan, subject, cell)))
    if other := [key for key in now if data["identity"].get(key) != now[key]]:
        raise ConfigError(
            f"{path} was made with another {' and '.join(other)}. Remove it to evaluate again, or "
            "give the plan another output folder."
        )
    return data["results"]


def collect(plan: Plan) -> Dict[str, Dict[str, Results]]:
    """Every finished result: model -> cell -> results."""
    found = {}
    for subject in load_subjects(plan):
        results = {cell.name: read_result(plan, subject, cell) for cell in plan.cells}
        found[subject.name] = {cell: x for cell, x in results.items() if x is not None}
    return found
