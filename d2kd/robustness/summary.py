"""Numbers and plot of the corruptions, from a plan's results."""

import math
from typing import Any, Dict, List

from matplotlib.figure import Figure

from ..evaluation.corruptions import corruption_summary
from ..text import for_plot
from .cells import Cell
from .plan import Plan
from .subject import Results

Found = Dict[str, Dict[str, Results]]
"""Model -> evaluation -> results."""

Values = Dict[str, Dict[int, float]]
"""Corruption -> severity -> AP."""


def cells_of(plan: Plan, kind: str) -> List[Cell]:
    """The evaluations of one kind."""
    return [cell for cell in plan.cells if cell.kind == kind]


def ap_of(results: Dict[str, Results], cell: str) -> float:
    """Box AP of an evaluation; nan where it is missing."""
    value = results.get(cell, {}).get("bbox", {}).get("AP")
    return math.nan if value is None else value


def own_ap(results: Dict[str, Results], mapping: Dict[str, Any]) -> float:
    """Clean AP on the model's own test set, of the classes that a domain shift counts."""
    aps = [
        ap
        for name, ap in results.get("clean", {}).get("bbox", {}).items()
        if name.startswith("AP-") and name[3:] not in mapping["ignored_detector"]
    ]
    known = [ap for ap in aps if ap is not None]
    return sum(known) / len(known) if known else math.nan


def corruption_values(plan: Plan, results: Dict[str, Results]) -> Values:
    """AP of the finished evaluations: corruption -> severity -> AP; 0 is for nothing found."""
    values: Values = {}
    for cell in cells_of(plan, "corruption"):
        severities = values.setdefault(cell.options["corruption"], {})
        if cell.name in results:
            severities[cell.options["severity"]] = ap_of(results, cell.name)
    return values


def summarize(plan: Plan, results: Dict[str, Results]) -> Dict[str, float | None]:
    """Clean AP, mPC, rPC and drop of a model; None where evaluations are missing."""
    clean, values = ap_of(results, "clean"), corruption_values(plan, results)
    complete = all(cell.name in results for cell in cells_of(plan, "corruption"))
    summary = corruption_summary(values if complete else {}, clean)
    return {k: None if math.isnan(v) else v for k, v in {"clean": clean, **summary}.items()}


def plot(plan: Plan, found: Found) -> Figure:
    """AP by severity, mean over the corruptions, and AP by corruption, mean over severities."""
    values = {model: corruption_values(plan, results) for model, results in found.items()}
    names = list(dict.fromkeys(cell.options["corruption"] for cell in cells_of(plan, "corruption")))
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 2.2])
    for i, (model, results) in enumerate(found.items()):
        points = {0: [ap_of(results, "clean")]}
        for known in values[model].values():
            for severity, ap in known.items():
                points.setdefault(severity, []).append(ap)
        means = [sum(x) / len(x) for x in points.values()]
        left.plot(list(points), means, "o-", label=for_plot(model))
        bars = [sum(v.values()) / len(v) if (v := values[model][n]) else 0.0 for n in names]
        width = 0.8 / len(found)
        right.bar([x + i * width for x in range(len(names))], bars, width, label=for_plot(model))
    left.set(xlabel="severity (0: clean)", ylabel="AP, mean over corruptions", ylim=(0, None))
    right.set_xticks([x + 0.4 - 0.4 / len(found) for x in range(len(names))], names, rotation=45,
                     ha="right")  # fmt: skip
    right.set_ylabel("AP, mean over severities")
    left.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    for axis in (left, right):
        axis.grid(axis="y", alpha=0.3)
    return figure
