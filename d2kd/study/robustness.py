"""Robustness of the runs of a study, by row and seed."""

import math
from typing import Dict, Optional

from ..engine.jobs import Executor
from ..evaluation.error_types import ERROR_TYPES
from ..robustness.evaluations import run_plan
from ..robustness.plan import Plan, build_plan
from ..robustness.results import collect
from ..robustness.subject import Results
from ..robustness.summary import ap_of, cells_of, summarize
from .plan import Study
from .results import read_result
from .tables import Values

GROUPS = {"AP_by_size": "AP by size", "AP_by_objects": "AP by crowding",
          "recall_by_overlap": "Recall by overlap"}  # fmt: skip


def plans_of(study: Study) -> Dict[int, Plan]:
    """One plan for each seed: those of `robustness_rows` whose training is finished.

    Raises:
        ConfigError: the study's `robustness` is wrong; the message says which key.
    """
    plans = {}
    for seed in study.seeds:
        runs = [run for row in study.robustness_rows for run in study.rows[row]]
        done = [run for run in runs if run.seed == seed and read_result(run) is not None]
        models = {
            run.row: {
                "config": str(run.folder / "config.yaml"),
                "options": ["MODEL.WEIGHTS", str(run.folder / "model_final.pth")],
            }
            for run in done
        }
        if models:
            output = str(study.output / "robustness" / f"seed_{seed}")
            data = {"output": output, "models": models, **study.robustness}
            plans[seed] = build_plan(data, f"robustness of {study.title}")
    return plans


def run_robustness(study: Study, jobs: int = 1, executor: Optional[Executor] = None) -> None:
    """Evaluate what is not evaluated yet.

    Args:
        study: its `imports` are executed in the processes of several jobs, not in this one.
        jobs: evaluations at the same time.
        executor: where they run; None for processes of this one.
    """
    for plan in plans_of(study).values():
        run_plan(plan, jobs, study.imports, executor)


def collect_robustness(study: Study) -> Dict[str, Values]:
    """Every measure that is finished: name -> row -> seed -> value.

    mPC, rPC and drop of the corruptions, AP on other data sets, AP under each attack, and, if the
    study asks for errors, what each type of error costs, AP by size and crowding, and recall by
    overlap.
    """
    found: Dict[str, Values] = {}
    for seed, plan in plans_of(study).items():
        for row, results in collect(plan).items():
            measures = {k: v for k, v in summarize(plan, results).items() if k != "clean"}
            cells = [*cells_of(plan, "shift"), *cells_of(plan, "attack")]
            measures.update({f"AP, {cell.name}": ap_of(results, cell.name) for cell in cells})
            if "errors" in study.robustness:
                measures.update(_error_measures(results.get("clean", {})))
            for name, value in measures.items():
                by_row = found.setdefault(name, {r: {} for r in study.rows})
                if value is not None and not math.isnan(value):
                    by_row[row][seed] = value
    return {name: values for name, values in found.items() if any(values.values())}


def _error_measures(clean: Results) -> Dict[str, float]:
    """Of the evaluation on clean images; groups without objects are left out."""
    costs = clean.get("error_cost", {})
    measures = {f"AP50 lost to errors: {k}": costs[k] for k in ERROR_TYPES if k in costs}
    for key, what in GROUPS.items():
        measures.update({f"{what}: {name}": x for name, x in clean.get(key, {}).items()})
    return measures
