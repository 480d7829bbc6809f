"""What a study runs, from its yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import yaml

_KEYS = {"title", "output", "baseline", "metric", "seeds", "options", "rows", "robustness"}


@dataclass(frozen=True)
class Run:
    """One training: a row of the table with one seed."""

    row: str
    seed: int
    folder: Path
    command: List[str]


@dataclass(frozen=True)
class Study:
    """A matrix of rows and seeds.

    Args:
        title: heading of the report.
        output: folder of all results.
        baseline: the row that the others are compared with, seed by seed.
        metric: a key of metrics.json, such as "bbox/AP".
        seeds: SEED of each run of a row.
        rows: row -> its runs.
        robustness: sections of a robustness plan that every finished run gets; {} for none.
        text: the yaml it was read from.
    """

    title: str
    output: Path
    baseline: str
    metric: str
    seeds: List[int]
    rows: Dict[str, List[Run]]
    robustness: Dict[str, Any]
    text: str

    @property
    def runs(self) -> List[Run]:
        """Every run, seed after seed, so that an unfinished study compares what it has."""
        return [runs[i] for i in range(len(self.seeds)) for runs in self.rows.values()]


def load_study(path: str) -> Study:
    """Read a study.

    The yaml has `title`, `output`, `seeds`, `rows` (row -> {config, options}) and, if wanted,
    `baseline` (the first row), `metric` (bbox/AP), `options` (KEY VALUE pairs for all rows) and
    `robustness` (corruptions, shift, attacks, errors, datasets, images; see docs/robustness.md).

    Raises:
        FileNotFoundError: no such file, or a row's config does not exist.
        ValueError: not a study; the message says which key is wrong.
    """
    text = Path(path).read_text()
    data = yaml.safe_load(text)
    _check(path, data)
    output, rows = Path(data["output"]), data["rows"]
    shared = [str(x) for x in data.get("options", [])]
    plan = {
        name: [
            Run(
                name,
                seed,
                output / name / f"seed_{seed}",
                _command(row, shared, seed, output, name),
            )
            for seed in data["seeds"]
        ]
        for name, row in rows.items()
    }
    return Study(
        title=data.get("title", Path(path).stem),
        output=output,
        baseline=data.get("baseline", next(iter(rows))),
        metric=data.get("metric", "bbox/AP"),
        seeds=list(data["seeds"]),
        rows=plan,
        robustness=data.get("robustness") or {},
        text=text,
    )


def _command(row: dict, shared: List[str], seed: int, output: Path, name: str) -> List[str]:
    options = [*shared, *(str(x) for x in row.get("options", []))]
    folder = str(output / name / f"seed_{seed}")
    return ["train_net.py", "--config-file", row["config"], *options,
            "SEED", str(seed), "OUTPUT_DIR", folder]  # fmt: skip


def _check(path: str, data: Any) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a study: it holds no keys.")
    if unknown := sorted(set(data) - _KEYS):
        raise ValueError(f"{path}: unknown keys {unknown}. Known: {', '.join(sorted(_KEYS))}.")
    if missing := sorted({"output", "seeds", "rows"} - set(data)):
        raise ValueError(f"{path}: missing {missing}.")
    if not data["seeds"] or len(set(data["seeds"])) < len(data["seeds"]):
        raise ValueError(f"{path}: seeds must name at least one seed, each once.")
    if data.get("baseline", next(iter(data["rows"]))) not in data["rows"]:
        raise ValueError(f"{path}: baseline {data['baseline']!r} is not one of the rows.")
    for name, row in data["rows"].items():
        if set(row) - {"config", "options"} or "config" not in row:
            raise ValueError(f"{path}: rows: {name}: give config and, if wanted, options.")
        if not Path(row["config"]).is_file():
            raise FileNotFoundError(f"{path}: rows: {name}: no such config: {row['config']}")
        if len(row.get("options", [])) % 2:
            raise ValueError(f"{path}: rows: {name}: options must be pairs of KEY and VALUE.")
