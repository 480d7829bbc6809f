"""Single runs of a study's report, trained again and compared."""

from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import torch

from ..config.locate import moved_config
from ..cores import cpu_kind
from ..errors import ConfigError
from ..evaluation.spread import spread_of
from ..file_io import parse_yaml, read_json, write_yaml
from ..study import Run, Study, collect, run_study
from ..study.checks import checked
from ..study.plan import build_study
from ..study.records import differences


def load_row(path: Path, row: str, seed: int, output: Path) -> Tuple[Study, Dict[str, Any]]:
    """A study that has one run of a report, and the teacher that it needs.

    Args:
        path: the report.json of a study, or a copy in docs/results.
        row: of its table.
        seed: of that row.
        output: folder of what is trained again.

    Returns:
        The study, and what the report holds.

    Raises:
        ConfigError: no such report, row or seed.
    """
    report = read_json(path)
    if not isinstance(report, dict) or not {"study", "values"} <= set(report):
        raise ConfigError(f"{path} is no report.json of d2kd study.")
    plan = checked(str(path), _with_todays_configs(parse_yaml(report["study"])))
    values = {
        name: {key: value for key, value in found.items() if value is not None}
        for name, found in report["values"].items()
    }
    if str(seed) not in values.get(row, {}):
        known = "; ".join(f"{name}: {', '.join(x)}" for name, x in values.items() if x)
        raise ConfigError(f"{path} has no row {row!r} with seed {seed}. Rows and seeds: {known}.")
    chosen = dict(plan["rows"][row], seeds=[seed])
    if chosen.pop("time_of", None):
        steps = ["SOLVER.MAX_ITER", report["equal_time"][row]["steps"]]
        chosen["options"] = [*chosen.get("options", []), *steps]
    teacher = chosen.get("teacher", "")
    before = {teacher: plan["rows"][teacher]} if teacher in plan["rows"] else {}
    rows = {**before, row: chosen}
    output.mkdir(parents=True, exist_ok=True)
    if "tuned" in report:
        write_yaml(output / "tuned.yaml", report["tuned"])
    kept = {key: value for key, value in plan.items() if key not in ("tune", "robustness")}
    kept |= {"output": str(output), "rows": rows, "seeds": [seed], "baseline": row}
    kept |= {"tuned": str(output / "tuned.yaml")} if "tuned" in report else {}
    return build_study(str(path), kept, report["study"]), report


def _with_todays_configs(plan: Any) -> Any:
    for row in plan.get("rows", {}).values() if isinstance(plan, dict) else ():
        row["config"] = moved_config(row["config"])
    return plan


def repeat_row(study: Study, report: Dict[str, Any], row: str, seed: int) -> Iterator[str]:
    """Train it, its teacher first, and say how its metric compares; lines.

    Raises:
        ConfigError: a training failed.
    """
    record = report.get("runs", {}).get(row, {}).get(str(seed), {})
    if not record:
        yield "no record: the row is older than records, so code and versions of then are unknown"
    elif record.get("cpu") != cpu_kind():
        yield f"its CPU was {record.get('cpu')}, this one is {cpu_kind()}: digits may differ"
    threads = record.get("threads", torch.get_num_threads())
    for name in study.rows:
        if failed := run_study(study.only([name]), threads=threads):
            raise ConfigError(" ".join(failed))
    run = study.rows[row][0]
    if record:
        yield _changes(run, record)
    yield from compare_metric(study, report, row, seed)


def _changes(run: Run, record: Dict[str, Any]) -> str:
    found = ", ".join(differences(run, record))
    return f"differs from the record: {found}" if found else "data, weights, config, code as then"


def compare_metric(study: Study, report: Dict[str, Any], row: str, seed: int) -> List[str]:
    """One line: the same bits, within the spread of the row's seeds, or further off."""
    before, now = report["values"][row][str(seed)], collect(study)[row][seed]
    if now == before:
        return [f"{row}, seed {seed}: {study.metric} {now!r}, the same bits"]
    spread = spread_of([x for x in report["values"][row].values() if x is not None])
    told = f"{row}, seed {seed}: {study.metric} was {before:.2f} and is {now:.2f}"
    if spread.seeds < 2:
        return [f"{told}; one seed says nothing of a spread"]
    word = "within" if abs(now - before) <= 2 * spread.sd else "**beyond**"
    return [f"{told}: {word} twice the deviation of its {spread.seeds} seeds ({spread.sd:.2f})"]
