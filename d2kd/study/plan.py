"""What a study runs, from its yaml."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence

from ..errors import ConfigError
from ..file_io import read_yaml
from ..text import file_name

_KEYS = {"title", "output", "baseline", "metric", "more_metrics", "seeds", "options", "rows",
         "robustness", "imports"}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training: a row of the table with one seed."""

    row: str
    seed: int
    folder: Path
    command: List[str]

    @property
    def shell(self) -> str:
        """The command as one types it."""
        return " ".join(map(_quoted, self.command))


def _quoted(word: str) -> str:
    """As shlex does it, but in double quotes where they do."""
    quoted = shlex.quote(word)
    return quoted if quoted == word or set(word) & set('"$`\\!') else f'"{word}"'


@dataclass(frozen=True)
class Study:
    """A matrix of rows and seeds.

    Args:
        title: heading of the report.
        output: folder of all results.
        baseline: the row that the others are compared with, seed by seed.
        metric: a key of metrics.json, such as "bbox/AP".
        more_metrics: further ones that are reported.
        seeds: SEED of each run of a row.
        rows: row -> its runs.
        only_named: rows that are not run, but reported with their commands.
        imports: Python files that every run executes first, as `--import` does.
        robustness: sections of a robustness plan that finished runs get; {} for none.
        robustness_rows: the rows that get it.
        text: the yaml it was read from.
    """

    title: str
    output: Path
    baseline: str
    metric: str
    more_metrics: List[str]
    seeds: List[int]
    rows: Dict[str, List[Run]]
    only_named: List[str]
    imports: List[str]
    robustness: Dict[str, Any]
    robustness_rows: List[str]
    text: str

    @property
    def runs(self) -> List[Run]:
        """What is to run, seed after seed, so that an unfinished study compares what it has."""
        rows = [runs for row, runs in self.rows.items() if row not in self.only_named]
        return [runs[i] for i in range(len(self.seeds)) for runs in rows]


def load_study(path: str) -> Study:
    """Read a study.

    The yaml has `title`, `output`, `seeds`, `rows` (row -> {config, options, run}) and, if wanted,
    `baseline` (the first row), `metric` (bbox/AP), `more_metrics` (none), `options` (KEY VALUE
    pairs for all rows), `imports` (Python files that register methods or detectors) and
    `robustness` (corruptions, shift, attacks, errors, datasets, images; see
    docs/guide/robustness.md; and `rows`, those that get it, by default all). A row with
    `run: false` is reported as not run, with its command.

    Raises:
        FileNotFoundError: no such file, or a row's config or one of `imports` does not exist.
        ValueError: not a study; the message says which key is wrong.
    """
    data = read_yaml(Path(path))
    _check(path, data)
    output, rows = Path(data["output"]), data["rows"]
    imports = [str(x) for x in data.get("imports", [])]
    shared = [word for file in imports for word in ("--import", file)]
    shared += [str(x) for x in data.get("options", [])]
    robustness = dict(data.get("robustness") or {})
    return Study(
        title=data.get("title", Path(path).stem),
        output=output,
        baseline=data.get("baseline", next(iter(rows))),
        metric=data.get("metric", "bbox/AP"),
        more_metrics=list(data.get("more_metrics", [])),
        seeds=list(data["seeds"]),
        rows={
            name: [_run(name, row, shared, seed, output) for seed in data["seeds"]]
            for name, row in rows.items()
        },
        only_named=[name for name, row in rows.items() if not row.get("run", True)],
        imports=imports,
        robustness_rows=list(robustness.pop("rows", rows)),
        robustness=robustness,
        text=Path(path).read_text(encoding="utf-8-sig"),
    )


def check_imports(study: Study, plan: str, allowed: Sequence[str]) -> None:
    """A plan alone runs no code: each file that it imports must be among those allowed.

    Raises:
        ConfigError: one is not.
    """
    known = {os.path.realpath(file) for file in allowed}
    if unknown := [file for file in study.imports if os.path.realpath(file) not in known]:
        options = " ".join(f"--import {file}" for file in study.imports)
        raise ConfigError(
            f"{plan}: imports names {', '.join(unknown)}, which is code. If you know it, allow it: "
            f"d2kd study {plan} {options}"
        )


def _run(name: str, row: Dict[str, Any], shared: List[str], seed: int, output: Path) -> Run:
    folder = output.joinpath(*map(file_name, str(name).split("/")), f"seed_{seed}")
    options = [*shared, *(str(x) for x in row.get("options", []))]
    options += ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
    return Run(name, seed, folder, ["d2kd", "train", row["config"], *options])


def _check_words(path: str, nodes: Iterable[Dict[str, Any]]) -> None:
    """Options become part of a command, of which they must not be options such as --import."""
    for node in nodes:
        for word in map(str, (node.get("config", ""), *node.get("options", []))):
            if word.startswith("--"):
                raise ConfigError(f"{path}: {word!r} is no config, KEY or VALUE.")


def _check(path: str, data: Any) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a study: it holds no keys.")
    if unknown := sorted(set(data) - _KEYS):
        raise ValueError(f"{path}: unknown keys {unknown}. Known: {', '.join(sorted(_KEYS))}.")
    if missing := sorted({"output", "seeds", "rows"} - set(data)):
        raise ValueError(f"{path}: missing {missing}.")
    if not data["seeds"] or len(set(data["seeds"])) < len(data["seeds"]):
        raise ValueError(f"{path}: seeds must name at least one seed, each once.")
    for name in data.get("imports", []):
        if not Path(name).is_file():
            raise FileNotFoundError(f"{path}: imports: no such file: {name}")
    rows = data["rows"]
    if data.get("baseline", next(iter(rows))) not in rows:
        raise ValueError(f"{path}: baseline {data['baseline']!r} is not one of the rows.")
    if unknown := sorted(set((data.get("robustness") or {}).get("rows", [])) - set(rows)):
        raise ValueError(f"{path}: robustness: rows: {unknown} are not rows of the study.")
    _check_words(path, [data, *rows.values()])
    for name, row in rows.items():
        if set(row) - {"config", "options", "run"} or "config" not in row:
            raise ValueError(f"{path}: rows: {name}: give config and, if wanted, options and run.")
        if not Path(row["config"]).is_file():
            raise FileNotFoundError(f"{path}: rows: {name}: no such config: {row['config']}")
        if len(row.get("options", [])) % 2:
            raise ValueError(f"{path}: rows: {name}: options must be pairs of KEY and VALUE.")
