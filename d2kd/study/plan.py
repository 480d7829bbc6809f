"""What a study runs, from its yaml."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence

from ..errors import ConfigError
from ..file_io import check_output, expect, read_yaml_and_text
from ..robustness.plan import build_plan
from ..text import shell
from .checks import checked
from .commands import Run, run_of, steps_of, words_of
from .found import read_tuned


@dataclass(frozen=True)
class Study:
    """A matrix of rows and seeds.

    Args:
        path: of its yaml.
        title: heading of the report.
        output: folder of all results.
        baseline: the row that the others are compared with, seed by seed.
        metric: a key of metrics.json, such as "bbox/AP".
        more_metrics: further ones that are reported.
        seeds: SEED of the runs of rows; a row may have some of them.
        rows: row -> its runs.
        trained: row -> the words of its `d2kd train` but for steps of the same time, seed, folder.
        teachers: rows that others have as teacher; they are run first.
        untimed: rows whose steps of the same time are still to be measured.
        untuned: rows whose options are still to be tuned.
        only_named: rows that are not run, but reported with their commands.
        imports: Python files that every run executes first, as `--import` does.
        robustness: sections of a robustness plan that finished runs get; {} for none.
        robustness_rows: the rows that get it.
        data: what the yaml holds, checked.
        text: the yaml it was read from.
    """

    path: str
    title: str
    output: Path
    baseline: str
    metric: str
    more_metrics: List[str]
    seeds: List[int]
    rows: Dict[str, List[Run]]
    trained: Dict[str, List[str]]
    teachers: List[str]
    untimed: List[str]
    untuned: List[str]
    only_named: List[str]
    imports: List[str]
    robustness: Dict[str, Any]
    robustness_rows: List[str]
    data: Dict[str, Any]
    text: str

    @property
    def runs(self) -> List[Run]:
        """What is to run, seed after seed, so that an unfinished study compares what it has."""
        rows = [runs for row, runs in self.rows.items() if row not in self.only_named]
        return [run for seed in self.seeds for runs in rows for run in runs if run.seed == seed]

    def with_what_was_found(self) -> "Study":
        """The same plan, not read again, with steps and options that were found since."""
        return build_study(self.path, self.data, self.text)

    def only(self, rows: Iterable[str]) -> "Study":
        """The same with these rows alone."""
        return replace(self, rows={row: self.rows[row] for row in rows})


def load_study(path: str) -> Study:
    """Read a study.

    The yaml has `title`, `output`, `seeds`, `rows` and, if wanted, `baseline` (the first row that
    is no teacher), `metric` (bbox/AP), `more_metrics` (none), `options` (KEY VALUE pairs for all
    rows), `num_gpus` (ranks of each training, 1), `imports` (Python files that register methods or
    detectors), `tune`, `tuned` (docs/tutorials/compare_methods.md) and `robustness` (corruptions,
    shift, attacks, errors, datasets, images; see docs/guide/robustness.md; and `rows`, those that
    get it, by default all).

    A row has `config` and, if wanted, `options`, `seeds` (those of the study), `teacher` (the
    folder of a run, or a row) and `methods`, as `d2kd train --teacher --distill` takes them,
    `time_of` (a row in whose time it trains), `tuned` (a row of `tune` whose choice it takes) and
    `run: false` (it is reported as not run, with its command).

    Raises:
        FileNotFoundError: no such file, or a row's config or one of `imports` does not exist.
        ValueError: not a study; the message says which key is wrong.
    """
    expect(path, "PLAN", "study")
    data, text = read_yaml_and_text(Path(path))
    return build_study(path, checked(path, data), text)


def build_study(path: str, data: Dict[str, Any], text: str) -> Study:
    """The study of a yaml that `checked` has passed."""
    output, rows = Path(data["output"]), data["rows"]
    check_output(output, f"{path}: output")
    robustness = dict(data.get("robustness", {}))
    robustness_rows = list(robustness.pop("rows", rows))
    tuned = read_tuned(data).get("rows", {})
    if robustness:
        models = {row: {"config": rows[row]["config"]} for row in robustness_rows}
        evaluated = {"output": str(output / "robustness"), "models": models}
        build_plan({**evaluated, **robustness}, f"{path}: robustness")  # to check it
    teachers = [name for name in rows if name in [row.get("teacher") for row in rows.values()]]
    trained = {name: words_of(path, name, row, data, tuned) for name, row in rows.items()}
    steps = steps_of(data, trained)
    seeds = {name: row.get("seeds", data["seeds"]) for name, row in rows.items()}
    return Study(
        path=path,
        title=data.get("title", Path(path).stem),
        output=output,
        baseline=data.get("baseline", next(x for x in rows if x not in teachers)),
        metric=data.get("metric", "bbox/AP"),
        more_metrics=list(data.get("more_metrics", [])),
        seeds=list(
            dict.fromkeys(seed for some in (data["seeds"], *seeds.values()) for seed in some)
        ),
        rows={
            name: [run_of(data, name, seed, [*words, *steps.get(name, [])]) for seed in seeds[name]]
            for name, words in trained.items()
        },
        trained=trained,
        teachers=teachers,
        untimed=[name for name, words in steps.items() if not words[1].isdigit()],
        untuned=[name for name, row in rows.items() if row.get("tuned", "") not in {"", *tuned}],
        only_named=[name for name, row in rows.items() if not row.get("run", True)],
        imports=data.get("imports", []),
        robustness_rows=robustness_rows,
        robustness=robustness,
        data=data,
        text=text,
    )


def check_imports(study: Study, command: str, allowed: Sequence[str]) -> None:
    """A plan alone runs no code: each file that it imports must be among those allowed.

    Args:
        study: what is to be run.
        command: that runs it, to which the files can be named.
        allowed: files that were named.

    Raises:
        ConfigError: one is not.
    """
    known = {os.path.realpath(file) for file in allowed}
    if unknown := [file for file in study.imports if os.path.realpath(file) not in known]:
        options = shell(*(word for file in study.imports for word in ("--import", file)))
        raise ConfigError(
            f"{study.path}: imports names {', '.join(unknown)}, which is code. If you know it, "
            f"allow it: {command} {options}"
        )
