"""Which charts the page has."""

import math
from bisect import bisect_right
from typing import Dict, Sequence, Tuple

from ..engine.run_files import Curve
from .drawing import Charts, bar_chart, line_chart
from .intervals import own_intervals
from .runs import RunFolder

_MOST = 20  # classes
_CURVES = (("Loss of the task", "loss", ""), ("AP during training", "box AP", "bbox/AP"),
           ("Learning rate", "learning rate", "lr"))  # fmt: skip
_LONG = 2  # times as many steps, from which on a teacher's curve is cut off


def run_charts(run: RunFolder) -> Charts:
    """Losses of the task and of the methods, and gradient norms, of one run: title and SVG."""
    task, kd = _losses(run)
    norms = {k.removeprefix("grad_norm/"): v for k, v in run.metrics.items() if "grad_norm/" in k}
    found = (("Task losses", "loss", task), ("Distillation losses", "weighted loss", kd),
             ("Gradients at the features", "norm", norms))  # fmt: skip
    return [(title, line_chart(x, label, log=True)) for title, label, x in found if x]


def _losses(run: RunFolder) -> Tuple[Dict[str, Curve], Dict[str, Curve]]:
    """Of the task and of the methods."""
    losses = {k.removeprefix("loss_"): v for k, v in run.metrics.items() if k.startswith("loss_")}
    kd = {k: v for k, v in losses.items() if k.startswith(tuple(f"{head}_" for head in run.heads))}
    return {k: v for k, v in losses.items() if k not in kd}, kd


def curve_charts(runs: Sequence[RunFolder], teachers: Sequence[str]) -> Charts:
    """Loss of the task, AP and learning rate over the steps, of all runs together."""
    longest = max((run.steps for run in runs if run.name not in teachers), default=0)
    cut = longest if any(run.steps > _LONG * longest > 0 for run in runs) else math.inf
    last = {run.name: run.results["bbox/AP"] for run in runs
            if run.name in teachers and "bbox/AP" in run.results}  # fmt: skip
    charts = []
    for title, label, key in _CURVES:
        found = {x.name: x.metrics.get(key, ([], [])) if key else _task_loss(x) for x in runs}
        ends = {name: bisect_right(steps, cut) for name, (steps, _) in found.items()}
        lines = {name: (x[: ends[name]], y[: ends[name]]) for name, (x, y) in found.items()}
        if any(ends.values()):
            levels = last if label == "box AP" else {}
            charts.append((title, line_chart(lines, label, log=label == "loss", levels=levels)))
    return charts


def _task_loss(run: RunFolder) -> Curve:
    """The sum of the task's losses where all have a value."""
    task, _ = _losses(run)
    rows = [dict(zip(*curve, strict=True)) for curve in task.values()]
    steps = [x for x in rows[0] if all(x in row for row in rows)] if rows else []
    return steps, [math.fsum(row[x] for row in rows) for x in steps]


def ap_charts(runs: Sequence[RunFolder]) -> Charts:
    """AP by size and by class, with intervals where detections are there."""
    known = {run.name: own_intervals(run.found) for run in runs if run.found}
    sizes = {f"bbox/AP{k[0]}": k for k in ("small", "medium", "large")}
    results = (key for run in runs for key in run.results)
    classes = {k: k.removeprefix("bbox/AP-") for k in results if k.startswith("bbox/AP-")}
    by_class = "AP by class"
    if len(classes) > _MOST:
        by_class += f": the {_MOST} of {len(classes)} that differ most"
        most = sorted(classes, key=lambda key: _spread(runs, key), reverse=True)[:_MOST]
        classes = {key: classes[key] for key in most}
    charts = []
    nan = math.nan, math.nan
    for title, names in (("AP by size", sizes), (by_class, classes)):
        if any(key in run.results for run in runs for key in names):
            bars = {run.name: [run.results.get(k, math.nan) for k in names] for run in runs}
            ends = {x: [found.get(k, nan) for k in names] for x, found in known.items()}
            charts.append((title, bar_chart(list(names.values()), bars, "box AP", ends)))
    return charts


def _spread(runs: Sequence[RunFolder], key: str) -> float:
    values = [x for run in runs if math.isfinite(x := run.results.get(key, math.nan))]
    return max(values) - min(values) if values else -1.0
