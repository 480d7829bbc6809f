"""What a robustness evaluation runs, from its yaml or from the folders of runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence

from ..config.plan_keys import Types, checked_keys, checked_rows
from ..errors import ConfigError
from ..evaluation.corruptions import QUICK_CORRUPTIONS
from ..file_io import check_output, expect, read_yaml
from .cells import Cell, build_cells

_PLAN: Types = {
    "title": (str,), "output": (str,), "models": (dict,), "baseline": (object,), "dataset": (str,),
    "datasets": (list, list), "images": (int,), "corruptions": (dict,), "shift": (dict,),
    "attacks": (dict,), "errors": (dict,),
}  # fmt: skip
_SECTIONS: Dict[str, Types] = {
    "corruptions": {"names": (list, str), "severities": (list, int)},
    "attacks": {"epsilons": (list, float), "steps": (int,), "images": (int,)},
    "errors": {"sizes": (list, float), "crowds": (list, float), "overlaps": (list, float)},
}
_MODEL: Types = {"config": (str,), "options": (list,)}
_SHIFT: Types = {"dataset": (str,), "classes": (dict,)}
QUICK_IMAGES = 100


@dataclass(frozen=True)
class Plan:
    """Models and the evaluations that each of them gets.

    Attributes:
        title: heading of the report.
        output: folder of all results.
        models: name -> {"config", "options"}.
        baseline: the model that the others are compared with.
        dataset: registered name; "" for DATASETS.TEST[0] of each model's config.
        datasets: entries as in DATASETS.CUSTOM.
        images: the first images of the data set that are used, 0 for all.
        cells: evaluations, clean images first.
        errors: options of `ErrorEvaluator`.
    """

    title: str
    output: Path
    models: Dict[str, Dict[str, Any]]
    baseline: str
    dataset: str
    datasets: List[List[str]]
    images: int
    cells: List[Cell]
    errors: Dict[str, Any]


def load_plan(path: str, quick: bool = False) -> Plan:
    """Read a plan.

    The yaml has `output` and `models` (name -> {config, options}), and, if wanted, `title`,
    `baseline` (the first model), `dataset`, `datasets`, `images`, `corruptions` {names,
    severities}, `shift` (name -> {dataset, classes}), `attacks` {epsilons, steps, images} and
    `errors` {sizes, crowds, overlaps}. docs/guide/robustness.md explains them.

    Args:
        path: yaml file.
        quick: a reduced set instead: four corruptions at severity 3, the first `QUICK_IMAGES`
            images, results in the folder "quick" below the output.

    Raises:
        FileNotFoundError: no such file, or a model's config does not exist.
        ConfigError: the message says which key is wrong.
    """
    expect(path, "PLAN", "robustness")
    return build_plan(read_yaml(Path(path)), path, quick)


def plan_of_runs(folders: Sequence[Path], output: Path, quick: bool = False) -> Plan:
    """Everything but domain shift, of the best checkpoints of runs; the first is the baseline.

    Args:
        folders: of runs; a model is named after its folder or, where two folders have one name,
            after what their paths do not share.
        output: folder of all results.
        quick: see `load_plan`.

    Raises:
        ConfigError: a folder is given twice, or is not that of a run.
    """
    names = [folder.name for folder in folders]
    paths = [os.path.abspath(folder) for folder in folders]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"a run is given twice: {', '.join(map(str, folders))}.")
    if len(set(names)) < len(names):
        shared = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = [os.path.relpath(path, shared).replace(os.sep, "-") for path in paths]
    models = {name: {"config": str(f)} for name, f in zip(names, folders, strict=True)}
    sections: Dict[str, Dict[str, Any]] = {"corruptions": {}, "attacks": {}, "errors": {}}
    data = {"title": "Robustness", "output": str(output), "models": models, **sections}
    return build_plan(data, "robustness", quick)


def build_plan(data: Any, path: str, quick: bool = False) -> Plan:
    """A plan from what its yaml holds; `path` is what errors name. See `load_plan`.

    Raises:
        ConfigError: the message says which key is wrong.
    """
    data = _checked(path, data)
    if quick:
        data = _reduced(data)
    check_output(data["output"], f"{path}: output")
    return Plan(
        title=data.get("title", Path(path).stem),
        output=Path(data["output"]),
        models=data["models"],
        baseline=data.get("baseline", next(iter(data["models"]))),
        dataset=data.get("dataset", ""),
        datasets=data.get("datasets", []),
        images=data.get("images", 0),
        cells=build_cells(data),
        errors=data.get("errors", {}),
    )


def _reduced(data: dict) -> dict:
    data = {**data, "output": str(Path(data["output"]) / "quick")}
    data["images"] = min(data.get("images") or QUICK_IMAGES, QUICK_IMAGES)
    if "corruptions" in data:
        data["corruptions"] = {"names": list(QUICK_CORRUPTIONS), "severities": [3]}
    return data


def _checked(path: str, data: Any) -> Dict[str, Any]:
    """The keys that have a value, of the right types; a section without one is {}."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a plan: it holds no keys.")
    sections = {k: data[k] or {} for k in (*_SECTIONS, "shift") if k in data}
    data = checked_keys(path, {**data, **sections}, _PLAN, {"output", "models"})
    if data.get("images", 0) < 0:
        raise ConfigError(f"{path}: images is {data['images']}: give 0 for all.")
    for key in (key for key in _SECTIONS if key in data):
        data[key] = _checked_section(f"{path}: {key}", data[key], _SECTIONS[key])
    for name, options in data.get("shift", {}).items():
        checked_keys(f"{path}: shift: {name}", options, _SHIFT, {"dataset"})
    data["models"] = checked_rows(f"{path}: models", data["models"], _MODEL)
    if data.get("baseline") not in (None, *data["models"]):
        names = ", ".join(map(str, data["models"]))
        raise ConfigError(f"{path}: baseline {data['baseline']!r} is no model; there are {names}.")
    return data


def _checked_section(where: str, options: Dict[str, Any], types: Types) -> Dict[str, Any]:
    if isinstance(options.get("names"), str):
        options = {**options, "names": [options["names"]]}
    options = checked_keys(where, options, types, set())
    for key, values in options.items():
        if types[key][0] is list and key != "names" and values != sorted(set(values)):
            raise ConfigError(f"{where}: {key} is {values!r}: each once, the smallest first.")
    return options
