"""What a study runs, from its yaml."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from ..errors import ConfigError, MissingFileError
from ..file_io import read_yaml_and_text
from ..text import file_name

_TYPES: Dict[str, Tuple[type, ...]] = {
    "title": (str,), "output": (str,), "baseline": (object,), "metric": (str,),
    "more_metrics": (list, str), "seeds": (list, int), "options": (list,), "rows": (dict,),
    "robustness": (dict,), "imports": (list, str),
}  # fmt: skip
_KINDS = {str: "text", int: "whole number", list: "list", dict: "group of keys"}


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
    data, text = read_yaml_and_text(Path(path))
    data = _checked(path, data)
    output, rows = Path(data["output"]), data["rows"]
    robustness = dict(data.get("robustness", {}))
    return Study(
        title=data.get("title", Path(path).stem),
        output=output,
        baseline=data.get("baseline", next(iter(rows))),
        metric=data.get("metric", "bbox/AP"),
        more_metrics=list(data.get("more_metrics", [])),
        seeds=list(data["seeds"]),
        rows={
            name: [_run(path, name, row, data, seed) for seed in data["seeds"]]
            for name, row in rows.items()
        },
        only_named=[name for name, row in rows.items() if not row.get("run", True)],
        imports=data.get("imports", []),
        robustness_rows=list(robustness.pop("rows", rows)),
        robustness=robustness,
        text=text,
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


def _run(path: str, name: str, row: Dict[str, Any], data: Dict[str, Any], seed: int) -> Run:
    folder = Path(data["output"], *map(file_name, str(name).split("/")), f"seed_{seed}")
    words = [row["config"], *map(str, [*data.get("options", []), *row.get("options", [])])]
    words += ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
    for word in words:  # they must not be options of the command, such as --import
        if word.startswith("--"):
            raise ConfigError(f"{path}: rows: {name}: {word!r} is no config, KEY, VALUE or folder.")
    imports = [word for file in data.get("imports", []) for word in ("--import", file)]
    return Run(name, seed, folder, ["d2kd", "train", words[0], *imports, *words[1:]])


def _checked(path: str, data: Any) -> Dict[str, Any]:
    """The keys of a study that have a value, of the right types."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a study: it holds no keys.")
    data = {key: value for key, value in data.items() if value is not None}
    if unknown := [str(key) for key in data if key not in _TYPES]:
        raise ConfigError(f"{path}: unknown keys {sorted(unknown)}. Known: {', '.join(_TYPES)}.")
    if missing := sorted({"output", "seeds", "rows"} - set(data)):
        raise ConfigError(f"{path}: missing {missing}.")
    for key, value in data.items():
        _check_type(f"{path}: {key}", value, *_TYPES[key])
    data["rows"] = {name: _checked_row(path, name, row) for name, row in data["rows"].items()}
    _check_names(path, data)
    return data


def _check_type(where: str, value: Any, kind: type, of: type = object) -> None:
    """Check a text, a list whose items are `of` one type, or a dictionary."""
    items = value if isinstance(value, list) else []
    if not isinstance(value, kind) or not all(isinstance(x, of) for x in items):
        what = _KINDS[kind] + (f" of {_KINDS[of]}s" if of in _KINDS else "")
        raise ConfigError(f"{where}: {value!r} is no {what}.")


def _checked_row(path: str, name: Any, row: Any) -> Dict[str, Any]:
    row = {k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else {}
    if set(row) - {"config", "options", "run"} or "config" not in row:
        raise ConfigError(f"{path}: rows: {name}: give config and, if wanted, options and run.")
    _check_type(f"{path}: rows: {name}: config", row["config"], str)
    _check_type(f"{path}: rows: {name}: options", row.get("options", []), list)
    if not Path(row["config"]).is_file():
        raise MissingFileError(f"{path}: rows: {name}: no such config: {row['config']}")
    if len(row.get("options", [])) % 2:
        raise ConfigError(f"{path}: rows: {name}: options must be pairs of KEY and VALUE.")
    return row


def _check_names(path: str, data: Dict[str, Any]) -> None:
    rows, seeds = list(data["rows"]), data["seeds"]
    if not rows:
        raise ConfigError(f"{path}: rows: give at least one, name -> {{config, options}}.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path}: seeds must name at least one seed, each once.")
    for name in data.get("imports", []):
        if not Path(name).is_file():
            raise MissingFileError(f"{path}: imports: no such file: {name}")
    if data.get("baseline", rows[0]) not in rows:
        raise ConfigError(f"{path}: baseline {data['baseline']!r} is not one of the rows.")
    chosen = data.get("robustness", {}).get("rows", rows)
    _check_type(f"{path}: robustness: rows", chosen, list)
    if unknown := [row for row in chosen if row not in rows]:
        raise ConfigError(f"{path}: robustness: rows: {unknown} are not rows of the study.")
