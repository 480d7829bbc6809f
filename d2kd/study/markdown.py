"""Means, spreads and paired differences of a study, and its report: markdown, JSON and a plot."""

import json
import math
from typing import Any, Dict, List

from ..engine.provenance import json_values
from ..evaluation.spread import paired_difference, spread_of
from ..file_io import write_atomically
from ..text import for_markdown, for_plot
from .found import read_paces, read_tuned
from .plan import Study
from .records import collect_records
from .tables import (
    Values,
    equal_times,
    not_run,
    table_of_family,
    table_of_seeds,
    table_of_tries,
)


def summarize(values: Values, baseline: str) -> Dict[str, Dict[str, float]]:
    """Statistics of each row.

    Args:
        values: row -> seed -> metric; what is not finite, such as the AP of large objects where
            there are none, counts as missing.
        baseline: the row that the others are compared with, on the seeds that both have.

    Returns:
        Dict: row -> "seeds", "mean", "sd" (sample standard deviation), "se" (standard error), and
        "difference", "difference_se" of the paired differences; nan where there are too few runs.
    """
    summary = {}
    for row, found in values.items():
        own = spread_of(list(found.values()))
        difference = paired_difference(found, values[baseline])
        summary[row] = {"seeds": own.seeds, "mean": own.mean, "sd": own.sd, "se": own.se,
                        "difference": difference.mean, "difference_se": difference.se}  # fmt: skip
    return summary


def write_report(study: Study, values: Values, more: Dict[str, Values] | None = None) -> str:
    """Write report.md, report.json and report.png into the study's folder.

    Args:
        study: what was run.
        values: its metric: row -> seed -> value.
        more: other measures, by name, such as those of `collect_more` and `collect_robustness`.

    Returns:
        str: the markdown.
    """
    measures = {study.metric: values, **(more or {})}
    summaries = {name: summarize(v, study.baseline) for name, v in measures.items()}
    summary = summaries[study.metric]
    text = (
        "\n".join([f"# {for_markdown(study.title)}", *_tables(study, measures, summaries)]) + "\n"
    )
    study.output.mkdir(parents=True, exist_ok=True)
    parts = {
        name: {"values": _with_null(found), "summary": _with_null(summaries[name])}
        for name, found in measures.items()
    }
    data: Dict[str, Any] = {"study": study.text, **parts.pop(study.metric)}
    data |= {"more": parts} if parts else {}
    found = {
        "runs": collect_records(study),
        "tuned": read_tuned(study.data),
        "equal_time": read_paces(study.data),
    }
    data |= {key: json_values(value) for key, value in found.items() if value}
    content = json.dumps(data, indent=1, allow_nan=False)
    write_atomically(study.output / "report.json", lambda path: path.write_text(content))
    write_atomically(study.output / "report.md", lambda path: path.write_text(text, "utf-8"))
    _plot(study, summary)
    return text


def _tables(study: Study, measures: Dict[str, Values], summaries: Dict[str, dict]) -> List[str]:
    """A table for each measure; those named "family: column" share one."""
    if not set(study.only_named) < set(study.rows):
        return not_run(study, measures[study.metric])
    families: Dict[str, Dict[str, dict]] = {}
    lines = []
    for name, found in measures.items():
        family, colon, column = name.partition(": ")
        if colon:
            families.setdefault(family, {})[column] = summaries[name]
        else:
            lines += ["", *table_of_seeds(study, name, found, summaries[name])]
    for family, columns in families.items():
        lines += ["", *table_of_family(study, family, columns)]
    lines += [*equal_times(study), *table_of_tries(study)]
    return lines + not_run(study, measures[study.metric])


def _with_null(table: Dict[str, Dict[Any, float]]) -> Dict[str, Dict[Any, float | None]]:
    """For JSON, which has no NaN."""
    return {
        row: {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        for row, numbers in table.items()
    }


def _plot(study: Study, summary: Dict[str, Dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row, s in summary.items() if s["seeds"]]
    means = [summary[row]["mean"] for row in rows]
    errors = [0.0 if math.isnan(summary[row]["se"]) else summary[row]["se"] for row in rows]
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(rows) + 1.2))
    axes.errorbar(means, range(len(rows)), xerr=errors, fmt="o", capsize=4)
    axes.set_yticks(range(len(rows)), map(for_plot, rows))
    axes.invert_yaxis()
    metric = for_plot(study.metric)
    axes.set_xlabel(f"{metric}, mean and standard error over seeds")
    if study.baseline in rows:
        axes.axvline(summary[study.baseline]["mean"], color="gray", linestyle=":")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(study.output / "report.png", dpi=120)
    plt.close(figure)
