"""What a robustness evaluation runs, from its yaml or from the folders of runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

from ..config.locate import resolve_config_file
from ..errors import ConfigError, check_choice
from ..evaluation.corruptions import QUICK_CORRUPTIONS
from ..file_io import check_output, expect, read_yaml
from .cells import Cell, build_cells

_SECTIONS: Dict[str, Set[str]] = {
    "corruptions": {"names", "severities"},
    "shift": set(),  # any name
    "attacks": {"epsilons", "steps", "images"},
    "errors": {"sizes", "crowds", "overlaps"},
}
_KEYS = {"title", "output", "models", "baseline", "dataset", "datasets", "images", *_SECTIONS}
_LISTS = {"severities", "epsilons", "sizes", "crowds", "overlaps"}
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
    _check(path, data)
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
        errors=data.get("errors") or {},
    )


def _reduced(data: dict) -> dict:
    data = {**data, "output": str(Path(data["output"]) / "quick")}
    data["images"] = min(data.get("images") or QUICK_IMAGES, QUICK_IMAGES)
    if "corruptions" in data:
        data["corruptions"] = {"names": list(QUICK_CORRUPTIONS), "severities": [3]}
    return data


def _check(path: str, data: Any) -> None:
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a plan: it holds no keys.")
    for key in data:
        check_choice(str(key), _KEYS, f"{path}: key")
    if missing := sorted({"output", "models"} - set(data)):
        raise ConfigError(f"{path}: missing {', '.join(missing)}.")
    images = data.get("images", 0)
    if not isinstance(images, int) or images < 0:
        raise ConfigError(f"{path}: images is {images!r}: give a whole number, 0 for all.")
    for section, known in _SECTIONS.items():
        _check_section(f"{path}: {section}", data.get(section) or {}, known)
    for name, options in (data.get("shift") or {}).items():
        if not isinstance(options, dict) or set(options) - {"dataset", "classes"}:
            raise ConfigError(f"{path}: shift: {name}: give dataset and, if wanted, classes.")
        if "dataset" not in options:
            raise ConfigError(f"{path}: shift: {name}: give dataset, a registered name.")
    _check_models(path, data["models"], data)


def _check_section(where: str, options: Any, known: Set[str]) -> None:
    if not isinstance(options, dict):
        raise ConfigError(f"{where}: give keys and values, not {options!r}.")
    for key in options if known else ():
        check_choice(str(key), known, where)
    for key in _LISTS & set(options):
        values = options[key]
        if not isinstance(values, list) or not all(isinstance(x, int | float) for x in values):
            raise ConfigError(f"{where}: {key} is {values!r}: give a list of numbers.")
        if values != sorted(set(values)):
            raise ConfigError(f"{where}: {key} is {values!r}: each once, the smallest first.")


def _check_models(path: str, models: Any, data: dict) -> None:
    if not isinstance(models, dict) or not models:
        raise ConfigError(f"{path}: models: give at least one, name -> {{config, options}}.")
    check_choice(data.get("baseline", next(iter(models))), models, f"{path}: baseline")
    for name, model in models.items():
        if (
            not isinstance(model, dict)
            or set(model) - {"config", "options"}
            or "config" not in model
        ):
            raise ConfigError(f"{path}: models: {name}: give config and, if wanted, options.")
        resolve_config_file(model["config"], f"{path}: models: {name}")
