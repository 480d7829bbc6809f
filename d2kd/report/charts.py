"""Charts as SVG text."""

import io
import math
from typing import Dict, List, Sequence, Tuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..text import for_plot
from .parts import Curve
from .runs import RunFolder

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe, Ito
STYLES = ("-", "--", "-.", ":")
_LARGEST = 1e30  # what matplotlib can scale


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element, without the XML header."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "d2kd"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def line_chart(curves: Dict[str, Curve], label: str, log: bool = False) -> str:
    """Curves over the iterations; values that are not finite, or huge, are gaps."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axis = figure.subplots()
    found = {name: [_drawable(x) for x in values] for name, (_, values) in curves.items()}
    for index, (name, (steps, _)) in enumerate(curves.items()):
        style = STYLES[index // len(COLORS) % len(STYLES)]
        marker = "o" if len(steps) < 30 else None
        axis.plot(steps, found[name], style, color=COLORS[index % len(COLORS)], marker=marker,
                  markersize=3, label=for_plot(name))  # fmt: skip
    if log and any(x > 1 / _LARGEST for values in found.values() for x in values):
        axis.set_yscale("log")
    axis.set_xlabel("training step")
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return to_svg(figure)


def bar_chart(groups: Sequence[str], bars: Dict[str, List[float]], label: str) -> str:
    """One group of bars for each name, one bar for each run."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        places = [x + index * width for x in range(len(groups))]
        heights = [_drawable(value) for value in values]
        axis.bar(places, heights, width, color=COLORS[index % len(COLORS)], label=for_plot(name))
    middle = 0.4 - width / 2
    axis.set_xticks([x + middle for x in range(len(groups))], map(for_plot, groups), fontsize=8)
    if len(groups) > 6:
        for text in axis.get_xticklabels():
            text.set(rotation=45, ha="right")
    axis.set_ylabel(label)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3, axis="y")
    axis.legend(fontsize=8)
    return to_svg(figure)


def _drawable(value: float) -> float:
    return value if abs(value) < _LARGEST else math.nan


def run_charts(run: RunFolder) -> List[Tuple[str, str]]:
    """Losses of the task and of the methods, and gradient norms, of one run: title and SVG."""
    losses = {k.removeprefix("loss_"): v for k, v in run.metrics.items() if k.startswith("loss_")}
    kd = {k: v for k, v in losses.items() if k.startswith(tuple(f"{head}_" for head in run.heads))}
    task = {k: v for k, v in losses.items() if k not in kd}
    norms = {k.removeprefix("grad_norm/"): v for k, v in run.metrics.items() if "grad_norm/" in k}
    charts = []
    if task:
        charts.append(("Task losses", line_chart(task, "loss", log=True)))
    if kd:
        charts.append(("Distillation losses", line_chart(kd, "weighted loss", log=True)))
    if norms:
        charts.append(("Gradients at the features", line_chart(norms, "norm", log=True)))
    return charts


def shared_charts(runs: Sequence[RunFolder]) -> List[Tuple[str, str]]:
    """AP over the steps, by class and by size, and the learning rate, of all runs together."""
    charts = []
    for name, title, label in (
        ("bbox/AP", "AP during training", "box AP"),
        ("lr", "Learning rate", "learning rate"),
    ):
        curves = {run.name: run.metrics[name] for run in runs if name in run.metrics}
        if curves:
            charts.append((title, line_chart(curves, label)))
    for title, keys in (("AP by size", _size_keys(runs)), ("AP by class", _class_keys(runs))):
        bars = {run.name: [run.results.get(k, math.nan) for k in keys] for run in runs}
        if keys:
            labels = [name.removeprefix("bbox/AP").removeprefix("-") for name in keys]
            named = {"s": "small", "m": "medium", "l": "large"} if title == "AP by size" else {}
            charts.append((title, bar_chart([named.get(x, x) for x in labels], bars, "box AP")))
    return charts


def _size_keys(runs: Sequence[RunFolder]) -> List[str]:
    return [k for k in ("bbox/APs", "bbox/APm", "bbox/APl") if any(k in r.results for r in runs)]


def _class_keys(runs: Sequence[RunFolder]) -> List[str]:
    """The 20 classes whose AP differs most, where there are more."""
    keys = list(dict.fromkeys(k for r in runs for k in r.results if k.startswith("bbox/AP-")))

    def spread(key: str) -> float:
        values = [run.results[key] for run in runs if key in run.results]
        return max(values) - min(values)

    return keys if len(keys) <= 20 else sorted(keys, key=spread, reverse=True)[:20]
