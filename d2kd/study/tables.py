"""The markdown tables of a study."""

import math
from typing import Dict, List, Optional

from ..text import for_markdown, markdown_code
from .found import read_paces, read_tuned
from .plan import Study

Values = Dict[str, Dict[int, float]]
"""Row -> seed -> value of a measure."""

Summary = Dict[str, Dict[str, float]]
"""Row -> statistic -> value; see `report.summarize`."""


def table_of_seeds(study: Study, metric: str, values: Values, summary: Summary) -> List[str]:
    """Every seed of a measure and its statistics, without rows that lack a further measure."""
    seeds = "".join(f" seed {seed} |" for seed in study.seeds)
    lines = [
        f"{markdown_code(metric)}; mean, sample standard deviation (sd), standard error (se); "
        f"difference to *{for_markdown(study.baseline)}* with the same seed, mean and standard "
        "error.", "",
        f"| |{seeds} mean | sd | se | difference | se |", "|---" * (len(study.seeds) + 6) + "|",
    ]  # fmt: skip
    for row, s in summary.items():
        if not s["seeds"] and (row in study.only_named or metric != study.metric):
            continue
        cells = "".join(f" {format_number(values[row].get(seed))} |" for seed in study.seeds)
        difference = "- | -" if row == study.baseline else (
            f"{format_number(s['difference'], '+')} | {format_number(s['difference_se'], digits=2)}"
        )  # fmt: skip
        lines.append(
            f"| {for_markdown(row)} |{cells} {format_number(s['mean'])} "
            f"| {format_number(s['sd'], digits=2)} | {format_number(s['se'], digits=2)} "
            f"| {difference} |"
        )
    return lines


def table_of_family(study: Study, family: str, columns: Dict[str, Summary]) -> List[str]:
    """Means of several measures side by side, with differences to the baseline."""
    baseline = for_markdown(study.baseline)
    lines = [
        f"{markdown_code(family)}; mean over the seeds; in brackets the difference to "
        f"*{baseline}* with the same seed and, behind /, its standard error.", "",
        f"| | {' | '.join(map(for_markdown, columns))} |", "|---" * (len(columns) + 1) + "|",
    ]  # fmt: skip
    for row in study.rows:
        cells = [_mean_and_difference(summary[row]) for summary in columns.values()]
        if row == study.baseline:
            cells = [format_number(summary[row]["mean"]) for summary in columns.values()]
        if any(summary[row]["seeds"] for summary in columns.values()):
            lines.append(f"| {for_markdown(row)} | {' | '.join(cells)} |")
    return lines


def _mean_and_difference(s: Dict[str, float]) -> str:
    error = format_number(s["difference_se"], digits=2)
    return f"{format_number(s['mean'])} ({format_number(s['difference'], '+')} / {error})"


def equal_times(study: Study) -> List[str]:
    """How many steps each row with `time_of` has, and from which measurement."""
    found = read_paces(study.data)
    lines = []
    for row in (x for x in study.trained if x in found and x not in study.untimed):
        pace = {key: for_markdown(value) for key, value in found[row].items() if key != "commands"}
        lines.append(
            f"- {for_markdown(row)}: {pace['steps']} steps; a step of {pace['time_of']} takes as "
            f"long as {pace['ratio']} ({pace['seconds']} s each; {pace['device']})."
        )
    text = "Equal time: steps with data, losses and optimizer, timed in turns before the trainings."
    return ["", text, "", *lines] if lines else []


def table_of_tries(study: Study) -> List[str]:
    """What was tried to tune the rows, with its numbers; the best in bold."""
    found = read_tuned(study.data)
    if not found:
        return []
    tune = found["tune"]
    counts = {len(row["tried"]) for row in found["rows"].values()}
    equal = "as many tries each" if len(counts) == 1 else "**unequal numbers of tries**"
    lines = ["", f"Tuned on {markdown_code(tune['test'])}, seed {tune['seed']}, {tune['steps']} "
             f"steps, {equal}; the best in bold.", "",
             f"| row | tried | {for_markdown(tune['metric'])} |", "|---|---|---|"]  # fmt: skip
    for name, row in found["rows"].items():
        for number, tried in enumerate(row["tried"], 1):
            value, bold = format_number(tried[tune["metric"]]), "**" * (number == row["best"])
            words = for_markdown(" ".join(map(str, tried["options"])) or "as it is")
            lines.append(f"| {for_markdown(name)} | {words} | {bold}{value}{bold} |")
    return lines


def not_run(study: Study, values: Values) -> List[str]:
    """What is missing, with the command of its first seed."""
    open_runs = {row: [run for run in runs if run.seed not in values[row]]
                 for row, runs in study.rows.items()}  # fmt: skip
    lines = ["", "Not run:", ""] if any(open_runs.values()) else []
    for row, runs in open_runs.items():
        if runs:
            seeds = ", ".join(str(run.seed) for run in runs)
            word, command = "seed" if len(runs) == 1 else "seeds", markdown_code(runs[0].shell)
            first = f" (after d2kd study {study.path} --tune)" if row in study.untuned else ""
            lines.append(f"- {for_markdown(row)}, {word} {seeds}{for_markdown(first)}: {command}")
    return lines


def format_number(value: Optional[float], sign: str = "", digits: int = 1) -> str:
    """A number for a table, "-" for none."""
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"
