"""What a run left in its folder."""

import math
import shlex
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from ..config.keys import flatten
from ..engine.run_files import (
    Curve,
    check_run,
    last_pictures,
    number,
    read_metrics,
    read_values,
    texts_of,
    value_of,
)
from ..errors import ConfigError
from ..file_io import read_json, read_yaml
from ..text import plain
from .found import Found


@dataclass
class RunFolder:
    """A run's folder, read; what it lacks is empty, and named in `missing`.

    Attributes:
        metrics: name -> (iterations counted from 1, values).
        results: metric -> finite value, such as "bbox/AP", of the last evaluation.
        evaluated: what that evaluation was of, such as "iterations" and "datasets".
        record: run.json.
        config: config.yaml, key with dots -> value.
        heads: methods; none where nothing is distilled.
        command: what was typed.
        pictures: kind -> PNG files of the last time that they were drawn.
        costs: "M parameters", "MB of weights" (10^6 bytes in memory) and "ms per image" (median) of
            the checkpoint that was looked at.
        checkpoint: which that was, and the score from which on its detections are drawn.
        found: detections of the last evaluation, where they were read.
        missing: sentences.
    """

    name: str
    folder: Path
    metrics: Dict[str, Curve] = field(default_factory=dict)
    results: Dict[str, float] = field(default_factory=dict)
    evaluated: Dict[str, Any] = field(default_factory=dict)
    record: Dict[str, Any] = field(default_factory=dict)
    config: Dict[str, Any] = field(default_factory=dict)
    heads: List[str] = field(default_factory=list)
    command: str = ""
    pictures: Dict[str, List[Path]] = field(default_factory=dict)
    costs: Dict[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    found: Optional[Found] = None
    missing: List[str] = field(default_factory=list)

    @property
    def distilled(self) -> bool:
        """Whether it has a teacher."""
        return self.config.get("MODEL.META_ARCHITECTURE") == "Distiller"

    @property
    def planned(self) -> float:
        """SOLVER.MAX_ITER; nan where it is not known."""
        steps = number(self.config.get("SOLVER.MAX_ITER"))
        return math.nan if steps is None else steps

    @property
    def done(self) -> bool:
        """Whether all steps are done, and box AP is that of the last one."""
        last = self.evaluated.get("iterations", self.planned) == self.planned
        return last and 0 < self.planned <= self.steps and "bbox/AP" in self.results

    @property
    def steps(self) -> int:
        """Steps that were done."""
        return max(self.metrics.get("total_loss", ([0], []))[0], default=0)

    @property
    def hours(self) -> float:
        """Training time: the steps times their mean time; nan where that is not known."""
        times = [x for x in self.metrics.get("time", ([], []))[1] if math.isfinite(x)]
        return self.steps * sum(times) / len(times) / 3600 if times else math.nan


def read_run(folder: Path, name: str) -> RunFolder:
    """Read a run's folder; a run that is still going, or damaged, is read as far as it is there.

    Raises:
        ConfigError: it is not the folder of a run.
    """
    check_run(folder)
    run = RunFolder(name, folder)
    config = flatten(read_values(folder / "config.yaml", read_yaml, run.missing))
    run.config = config
    if run.distilled:
        run.heads = texts_of(config, "DISTILL.HEADS", "config.yaml", run.missing)
    run.record = read_values(folder / "run.json", read_json, run.missing)
    run.command = shlex.join(texts_of(run.record, "command", "run.json", run.missing))
    planned = value_of(config, "SOLVER.MAX_ITER", 0, "config.yaml", run.missing)
    first: List[Any] = value_of(config, "DATASETS.TEST", [], "config.yaml", run.missing)[:1]
    prefix = "".join(f"{x}/" for x in first)  # of results and curves where there are several
    run.metrics = {
        k.removeprefix(prefix): ([i - (i == planned + 1 > 1) for i in x], y)  # behind the last step
        for k, (x, y) in read_metrics(folder / "metrics.json", run.missing).items()
    }
    results = read_values(folder / "results.json", read_json, run.missing)
    run.results = _results(results, prefix, run.missing)
    run.evaluated = value_of(results, "run", {}, "results.json", run.missing)
    run.pictures = {kind: last_pictures(folder / kind) for kind in ("detections", "maps")}
    if run.steps < planned:
        run.missing.append(f"{run.steps} of {planned} steps are done.")
    return run


def _results(values: Dict[str, Any], prefix: str, missing: List[str]) -> Dict[str, float]:
    """Finite results; null is usual, such as the AP of large objects where there are none."""
    given = flatten(value_of(values, "results", {}, "results.json", missing), "/")
    found = {k.removeprefix(prefix): math.nan if v is None else number(v) for k, v in given.items()}
    bad = sum(x is None or math.isinf(x) for x in found.values())
    if bad:
        missing.append(f"results.json: {bad} of {len(found)} results are no finite numbers.")
    return {k: x for k, x in found.items() if x is not None and math.isfinite(x)}


def different_keys(runs: List[RunFolder]) -> Dict[str, List[Any]]:
    """Config keys whose values are not the same in all runs, the output folder aside."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values = {key: [run.config.get(key, "") for run in runs] for key in keys}
    return {
        key: found
        for key, found in values.items()
        if key != "OUTPUT_DIR" and any(value != found[0] for value in found)
    }


@contextmanager
def noted(run: RunFolder, what: str) -> Iterator[None]:
    """Whatever a damaged run does to the libraries is put into its `missing`, under `what`."""
    try:
        yield
    except Exception as error:
        text = plain(error, 500)
        if not isinstance(error, (ConfigError, OSError)):
            text = f"{type(error).__name__}: {text}"
        if not any(text in x for x in run.missing):
            run.missing.append(f"{what}: {text}")
