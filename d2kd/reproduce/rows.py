"""Single runs of a study's report, trained again and compared."""

import hashlib
import math
from pathlib import Path
from typing import Any, Dict, Iterator, List

from ..cores import cpu_kind
from ..errors import ConfigError
from ..evaluation.spread import Spread, spread_of
from ..study import Study, collect, run_study
from ..study.plan import build_study
from ..study.records import compare_records, record_of
from ..study.results import read_result
from .reports import Report

_CPUS = {"cpu", "x86_64", "i686", "i386", "aarch64", "arm64", "arm"}  # the latter in older records
BEYOND = "**beyond**"
"""What a line says of a metric that is further off."""


def folder_of_report(report: Report, folder: Path) -> Path:
    """A folder of its own for each study."""
    digest = hashlib.sha256(report.text.encode()).hexdigest()[:8]
    return folder / f"{Path(report.plan['output']).name}_{digest}"


def plan_of_row(report: Report, path: Path, row: str, seed: int, output: Path) -> Study:
    """A study that has one run of a report and, before it, the teacher that it needs.

    Args:
        report: that of `path`.
        path: for messages.
        row: of its table.
        seed: of that row.
        output: folder of what is trained again.

    Raises:
        ConfigError: no such row or seed, or the report lacks what the row was trained with.
    """
    plan, values = report.plan, report.values
    if str(seed) not in values.get(row, {}) or row not in plan["rows"]:
        known = "; ".join(f"{name}: {', '.join(x)}" for name, x in values.items() if x)
        raise ConfigError(f"{path} has no row {row!r} with seed {seed}. Rows and seeds: {known}.")
    rows = _rows(report, row, seed)
    kept = {key: x for key, x in plan.items() if key not in ("tune", "tuned", "robustness")}
    kept |= {"output": str(output), "rows": rows, "seeds": [seed], "baseline": row}
    return build_study(str(path), kept, report.text)


def _rows(report: Report, row: str, seed: int) -> Dict[str, Any]:
    rows, seeds = report.plan["rows"], report.plan["seeds"]
    found = {row: _as_it_was(report, row, seed)}
    if (teacher := rows[row].get("teacher", "")) in rows:
        first = rows[teacher].get("seeds", seeds)[0]  # the one that the study's students had
        found = {teacher: _as_it_was(report, teacher, first), **found}
    return found


def _as_it_was(report: Report, row: str, seed: int) -> Dict[str, Any]:
    """A row with what was tuned and timed for it, on the kind of device that it had."""
    chosen: Dict[str, Any] = {**report.plan["rows"][row], "seeds": [seed]}
    options = [*chosen.get("options", []), *report.tuned_options(chosen.pop("tuned", ""))]
    if chosen.pop("time_of", None) is not None:
        options += ["SOLVER.MAX_ITER", report.steps(row)]
    if report.record(row, seed).get("device") in _CPUS:
        options += ["MODEL.DEVICE", "cpu"]
    return {**chosen, "options": options}


def repeat_row(study: Study, report: Report, row: str, seed: int) -> Iterator[str]:
    """Train it, its teacher first, and say how its metric compares; lines.

    Raises:
        ConfigError: it is there already, or a training failed.
    """
    run, record = study.rows[row][0], report.record(row, seed)
    if read_result(run) is not None:
        raise ConfigError(
            f"{run.folder} is this run, trained before: remove it, or give another --output."
        )
    if not record:
        yield "no record: the row is older than records, so code and versions of then are unknown"
    elif record.get("cpu") != cpu_kind():
        yield f"its CPU was {record.get('cpu')}, this one is {cpu_kind()}: digits may differ"
    threads = record.get("threads", 0)
    for name in study.rows:
        if failed := run_study(study.only([name]), threads=threads if threads in range(257) else 0):
            raise ConfigError(" ".join(failed))
    if record:
        found = ", ".join(compare_records(record_of(run), record))
        yield f"differs from the record: {found}" if found else "all that is recorded is as then"
    before = report.values[row][str(seed)], list(report.values[row].values())
    yield compare_metric(study, row, seed, *before)


def compare_metric(study: Study, row: str, seed: int, before: float, seeds: List[float]) -> str:
    """One line: the same bits, within what the row's seeds explain, or further off."""
    now = collect(study)[row][seed]
    if now == before:
        return f"{row}, seed {seed}: {study.metric} {now!r}, the same bits"
    told = f"{row}, seed {seed}: {study.metric} was {before:.2f} and is {now:.2f}"
    return f"{told}{_explained(now - before, spread_of(seeds))}"


def _explained(difference: float, spread: Spread) -> str:
    """Whether two runs of a row, of other seeds or roundings, differ so in 95 of 100 cases."""
    if spread.seeds < 2:
        return "; one seed says nothing of a spread"
    from scipy.stats import t as student_t  # takes long to load

    bound = student_t.ppf(0.975, spread.seeds - 1) * math.sqrt(2) * spread.sd
    return (
        f": {'within' if abs(difference) <= bound else BEYOND} {bound:.2f}, which 95 of 100 pairs "
        f"of runs differ by at most (its {spread.seeds} seeds have a deviation of {spread.sd:.2f})"
    )
