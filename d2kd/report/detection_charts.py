"""Charts of what runs detected: precision, F1, and what is taken for what."""

from typing import Sequence, Tuple

import numpy as np

from .drawing import Charts, finish, matrix_chart, name_of, new_chart, style_of
from .found import Found
from .runs import RunFolder

_MOST = 20  # classes


def detection_charts(runs: Sequence[RunFolder]) -> Charts:
    """Precision over recall, and F1 over the score threshold, of all runs together."""
    if not any(run.found for run in runs):
        return []
    return [("Precision over recall at IoU 0.5 and, dashed, 0.75", _precision(runs)),
            ("F1 over the score threshold, at IoU 0.5", _f1(runs))]  # fmt: skip


def _precision(runs: Sequence[RunFolder]) -> str:
    figure, axis = new_chart(len(runs))
    recalls = np.linspace(0, 1, 101)
    for index, run in enumerate(runs):
        if run.found:
            style, precision = style_of(index), run.found.precision
            axis.plot(recalls, precision[0], color=style["color"], label=name_of(run.name))
            axis.plot(recalls, precision[5], "--", color=style["color"], linewidth=1)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    return finish(figure, axis)


def _f1(runs: Sequence[RunFolder]) -> str:
    figure, axis = new_chart(len(runs))
    for index, run in enumerate(runs):
        if run.found:
            style, curves, best = style_of(index), run.found.curves, run.found.best
            said = f": {best['F1']:.2f} at {best['threshold']:.2f}" if best else ""
            axis.plot(curves["threshold"], curves["F1"], label=name_of(run.name) + said, **style)
            if best:
                axis.plot(best["threshold"], best["F1"], "o", color=style["color"])
    axis.set(xlabel="score threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02))
    return finish(figure, axis)


def confusion_charts(runs: Sequence[RunFolder]) -> Charts:
    """One matrix for each run, at its best threshold."""
    return [_confusion(run.name, run.found) for run in runs if run.found]


def _confusion(name: str, found: Found) -> Tuple[str, str]:
    counts, classes = found.confusion, len(found.classes)
    title = f"{name}, score {found.threshold:.2f} or more"
    shown = list(range(classes))
    if classes > _MOST:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        shown = sorted(np.argsort(-wrong[:classes], kind="stable")[:_MOST].tolist())
        title += f"; the {_MOST} of {classes} classes with the most mistakes"
    names = [found.classes[k] for k in shown]
    places = [*shown, classes]
    cells = counts[np.ix_(places, places)]
    return title, matrix_chart(cells, [*names, "nothing"], [*names, "missed"])
