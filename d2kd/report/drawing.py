"""Charts as SVG text, sized to be read on a telephone."""

import io
import math
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from ..engine.run_files import Curve
from ..text import for_plot

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe, Ito
STYLES = ("-", "--", "-.", ":")
_LARGEST = 1e30  # what matplotlib can scale
_MANY = 50  # points, from which on a line is smoothed
_SIZE = (4.4, 2.8)  # inches: 1.17 px a point where 370 px are left
_NAME = 40  # characters in a legend
_ROW = 45  # characters, from which on the names of columns stand upright

Charts = List[Tuple[str, str]]
"""Titles and SVG."""


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element, without the XML header."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "d2kd"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def new_chart(rows: int = 0, size: Tuple[float, float] = _SIZE) -> Tuple[Figure, Axes]:
    """A figure of one chart, with room for that many rows of a legend."""
    figure = Figure(figsize=(size[0], size[1] + 0.17 * rows), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    axis.set_axisbelow(True)
    axis.grid(alpha=0.3)
    return figure, axis


def finish(figure: Figure, axis: Axes) -> str:
    """The figure with its legend above the chart, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    columns = 2 if max(map(len, labels), default=99) <= _NAME // 2 else 1
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9,
                      frameon=False, borderpad=0, labelspacing=0.2)  # fmt: skip
    return to_svg(figure)


def name_of(run: str) -> str:
    """A run's name in a legend."""
    return for_plot(run, _NAME)


def style_of(index: int) -> Dict[str, Any]:
    """Colour and style of line number `index`."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": STYLES[index // len(COLORS) % len(STYLES)],
    }


def line_chart(
    lines: Dict[str, Curve],
    label: str,
    *,
    log: bool = False,
    levels: Dict[str, float] | None = None,
) -> str:
    """Lines over the steps; values that are not finite, or huge, are gaps.

    Args:
        lines: name -> steps and values. A line without values is left out, and keeps its colour.
        label: of the vertical axis.
        log: for losses and the like: a running mean is drawn over many values, and the axis is
            logarithmic where there are values above 0.
        levels: names -> values at which to draw a dotted line in the colour of the name.
    """
    figure, axis = new_chart(len(lines))
    above = False
    for index, (name, (x, y)) in enumerate(lines.items()):
        style, values = style_of(index), np.array([_drawable(v) for v in y])
        many, marker = log and len(x) >= _MANY, "o" if len(x) < 30 else None
        above |= bool((values > 1 / _LARGEST).any())
        if many:
            axis.plot(x, values, alpha=0.25, linewidth=0.7, **style)
        if len(x):
            axis.plot(x, _smooth(values) if many else values, marker=marker, markersize=3,
                      linewidth=1.5, label=name_of(name), **style)  # fmt: skip
        if levels and name in levels:
            axis.axhline(levels[name], color=style["color"], linestyle=":", linewidth=1.2,
                         label=f"{name_of(name)}, at its end")  # fmt: skip
    if log and above:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(left=0)
    axis.set_xlabel("training step")
    axis.set_ylabel(label)
    return finish(figure, axis)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean over a twentieth of the values; gaps stay."""
    known = np.isfinite(values)
    size = len(values) // 20 | 1
    sums, counts = (
        uniform_filter1d(x, size, mode="nearest")
        for x in (np.where(known, values, 0.0), known.astype(float))
    )
    return np.where(known, sums / np.maximum(counts, 1e-9), np.nan)


def bar_chart(
    groups: Sequence[str],
    bars: Dict[str, List[float]],
    label: str,
    ends: Dict[str, List[Tuple[float, float]]],
) -> str:
    """One group of bars for each name, one bar for each run, with its interval where known."""
    group = min(0.6, 0.16 + 0.08 * len(bars))  # inches
    figure, axis = new_chart(len(bars), (_SIZE[0], max(2.2, 0.8 + len(groups) * group)))
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        places = [x + index * width for x in range(len(groups))]
        heights = np.array([_drawable(value) for value in values])
        axis.barh(places, heights, width, color=COLORS[index % len(COLORS)],
                  label=name_of(name))  # fmt: skip
        if name in ends:
            low, high = np.array(ends[name]).T
            axis.errorbar((low + high) / 2, places, xerr=(high - low) / 2, fmt="none",
                          ecolor="#333", elinewidth=1, capsize=1.5)  # fmt: skip
    middle = 0.4 - width / 2
    axis.set_yticks([x + middle for x in range(len(groups))], [for_plot(x, 24) for x in groups])
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.set_xlim(left=0)
    axis.grid(visible=False, axis="y")
    return finish(figure, axis)


def matrix_chart(counts: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str]) -> str:
    """Counts (R, C), coloured by their share of the row, in the last row by that of all."""
    side = max(2.6, min(5.5, 1.4 + 0.28 * len(rows)))
    figure, axis = new_chart(size=(_SIZE[0], side))
    sums = counts.sum(1, keepdims=True)
    sums[-1] = counts.sum()
    shares = counts / np.maximum(sums, 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    small, names = len(rows) > 8, [for_plot(x, 16) for x in columns]
    wide = small or len(names) * max(map(len, names)) > _ROW
    axis.set_xticks(range(len(names)), names, rotation=90 * wide)
    axis.set_yticks(range(len(rows)), [for_plot(x, 16) for x in rows])
    axis.tick_params(labelsize=7 if small else 9)
    for (row, column), count in np.ndenumerate(counts):
        if count and len(rows) <= 14:
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{count}", ha="center", va="center", color=color,
                      fontsize=7 if small else 9)  # fmt: skip
    axis.set_xlabel("detected")
    axis.set_ylabel("labelled")
    axis.grid(visible=False)
    return to_svg(figure)


def _drawable(value: float) -> float:
    return value if abs(value) < _LARGEST else math.nan
