"""Which charts the page has."""

import math
from bisect import bisect_right
from typing import Dict, List, Sequence, Tuple

from .drawing import Charts, bar_chart, line_chart
from .intervals import own_intervals
from .parts import Curve
from .runs import RunFolder

_MOST = 20  # classes
_LONG = 2  # times as many steps, from which on a teacher's curve is cut off


def run_charts(run: RunFolder) -> Charts:
    """Losses of the task and of the methods, and gradient norms, of one run: title and SVG."""
    task, kd = _losses(run)
    norms = {k.removeprefix("grad_norm/"): v for k, v in run.metrics.items() if "grad_norm/" in k}
    charts = []
    if task:
        charts.append(("Task losses", line_chart(task, "loss", log=True)))
    if kd:
        charts.append(("Distillation losses", line_chart(kd, "weighted loss", log=True)))
    if norms:
        charts.append(("Gradients at the features", line_chart(norms, "norm", log=True)))
    return charts


def _losses(run: RunFolder) -> Tuple[Dict[str, Curve], Dict[str, Curve]]:
    """Of the task and of the methods."""
    losses = {k.removeprefix("loss_"): v for k, v in run.metrics.items() if k.startswith("loss_")}
    kd = {k: v for k, v in losses.items() if k.startswith(tuple(f"{head}_" for head in run.heads))}
    return {k: v for k, v in losses.items() if k not in kd}, kd


def curve_charts(runs: Sequence[RunFolder], teachers: Sequence[str]) -> Charts:
    """Loss of the task, AP and learning rate over the steps, of all runs together."""
    longest = max((run.steps for run in runs if run.name not in teachers), default=0)
    cut = longest + 1 if any(run.steps > _LONG * longest > 0 for run in runs) else math.inf
    last = {run.name: run.results["bbox/AP"] for run in runs
            if run.name in teachers and "bbox/AP" in run.results}  # fmt: skip
    found = {
        "Loss of the task": ("loss", {run.name: _task_loss(run) for run in runs}),
        "AP during training": ("box AP", {run.name: _metric(run, "bbox/AP") for run in runs}),
        "Learning rate": ("learning rate", {run.name: _metric(run, "lr") for run in runs}),
    }
    charts = []
    for title, (label, lines) in found.items():
        kept = {name: _until(cut, line) for name, line in lines.items()}
        if any(steps for steps, _ in kept.values()):
            levels, log = last if label == "box AP" else {}, label == "loss"
            charts.append((title, line_chart(kept, label, log=log, levels=levels)))
    return charts


def _until(step: float, line: Curve) -> Curve:
    count = bisect_right(line[0], step)
    return line[0][:count], line[1][:count]


def _metric(run: RunFolder, key: str) -> Curve:
    return run.metrics.get(key, ([], []))


def _task_loss(run: RunFolder) -> Curve:
    """The sum of the task's losses where all have a value."""
    task, _ = _losses(run)
    rows = [dict(zip(*curve, strict=True)) for curve in task.values()]
    steps = [x for x in rows[0] if all(x in row for row in rows)] if rows else []
    return steps, [math.fsum(row[x] for row in rows) for x in steps]


def ap_charts(runs: Sequence[RunFolder]) -> Charts:
    """AP by size and by class, with intervals where detections are there."""
    known = {run.name: own_intervals(run.found) for run in runs if run.found}
    charts = []
    for title, keys in (("AP by size", _size_keys(runs)), ("AP by class", _class_keys(runs))):
        bars = {run.name: [run.results.get(k, math.nan) for k in keys] for run in runs}
        nan = (math.nan, math.nan)
        ends = {name: [found.get(k, nan) for k in keys] for name, found in known.items()}
        if keys:
            labels = [name.removeprefix("bbox/AP").removeprefix("-") for name in keys]
            named = {"s": "small", "m": "medium", "l": "large"} if title == "AP by size" else {}
            names = [named.get(x, x) for x in labels]
            charts.append((title, bar_chart(names, bars, "box AP", ends)))
    return charts


def _size_keys(runs: Sequence[RunFolder]) -> List[str]:
    return [k for k in ("bbox/APs", "bbox/APm", "bbox/APl") if any(k in r.results for r in runs)]


def _class_keys(runs: Sequence[RunFolder]) -> List[str]:
    """The 20 classes whose AP differs most, where there are more."""
    keys = list(dict.fromkeys(k for r in runs for k in r.results if k.startswith("bbox/AP-")))

    def spread(key: str) -> float:
        values = [run.results[key] for run in runs if key in run.results]
        return max(values) - min(values)

    return keys if len(keys) <= _MOST else sorted(keys, key=spread, reverse=True)[:_MOST]
