"""Whether distillation helped, in a sentence that says how sure that is."""

import math
from dataclasses import dataclass, field
from typing import List, NamedTuple, Sequence

from scipy.stats import t as student_t

from ..evaluation.spread import paired_difference, spread_of
from .intervals import Intervals, intervals
from .pairs import EQUAL_TIME, Comparison, Pair, compare_runs
from .runs import RunFolder


class Row(NamedTuple):
    """A measure of plain and distilled runs, paired by seed.

    Attributes:
        se: standard error of `change`, nan for one seed.
        low, high: a 95 % interval of `change`, by Student's t over seeds; for one seed over the
            test images, nan where detections are missing.
    """

    name: str
    seeds: int
    plain: float
    distilled: float
    change: float
    se: float
    low: float
    high: float

    @property
    def claim(self) -> str:
        """What distillation does."""
        if math.isnan(self.low):
            return "cannot be judged by one pair of runs without its detections"
        seeds = f"{self.seeds} seeds" if self.seeds > 1 else "one seed"
        if self.change > 0 and self.low >= 0:
            return f"helps with {seeds}"
        if self.change < 0 and self.high <= 0:
            return f"hurts with {seeds}"
        return f"makes no difference that {seeds} can show"

    def __str__(self) -> str:
        """The change and, in brackets, how sure it is."""
        ends = f" ({self.low:+.1f} to {self.high:+.1f})" if not math.isnan(self.low) else ""
        sure = f" ({self.se:.1f})" if self.seeds > 1 else ends
        return f"{self.name} {self.change:+.1f}{sure}"


@dataclass
class Verdict:
    """A sentence, what is to be known about it, and the numbers behind it.

    Attributes:
        rows: AP, AP75 and each class at equal steps.
        longer: AP and AP75 beside longer plain runs.
    """

    text: str
    notes: List[str]
    rows: List[Row] = field(default_factory=list)
    longer: List[Row] = field(default_factory=list)


def verdicts(runs: Sequence[RunFolder]) -> List[Verdict]:
    """One for each setting of distilled runs; what fails is put into the runs' `missing`."""
    found = compare_runs(runs)
    return [_verdict(x, _subject(x, len(found) > 1)) for x in found]


def _subject(found: Comparison, with_names: bool) -> str:
    names = f", {', '.join(run.name for run in found.runs)}" if with_names else ""
    return f"Distillation ({', '.join(found.runs[0].heads) or 'no methods'}{names})"


def _verdict(found: Comparison, subject: str) -> Verdict:
    without = [f"{', '.join(names)}: {reason}." for reason, names in found.without.items()]
    equal, other = intervals(found.equal), intervals(found.longer)
    rows, longer = _rows(found.equal, equal), _rows(found.longer, other)[:2]
    first = rows or longer
    if not first:
        return Verdict(f"No verdict on {subject[0].lower()}{subject[1:]}.", without)
    sure = "the standard error" if first[0].seeds > 1 else "a 95 % interval over the test images"
    sure = "" if math.isnan(first[0].low) else f", in brackets {sure}"
    parts = [f"{rows[0].claim}: {_listed(rows[:2])}{sure}"] if rows else []
    parts.append(_time(found, longer) + ("" if rows else sure))
    changed = [x for x in rows[2:] if abs(x.change) >= 0.05]  # what is no 0.0
    if len(rows) > 3 and changed:
        most = sorted(changed, key=lambda x: -abs(x.change))[:3]
        parts.append(f"the largest changes of {len(rows) - 2} classes: {_listed(most)}")
    notes = [*_notes(found, equal or other), *without]
    colon = "" if rows else ":"
    return Verdict(f"{subject}{colon} {'; '.join(parts)}.", notes, rows, longer)


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(str(x) for x in rows if not math.isnan(x.change))


def _time(found: Comparison, longer: Sequence[Row]) -> str:
    if longer:
        factor = spread_of([plain.hours / run.hours for run, plain in found.longer]).mean
        when = f"that took {factor:.2f} times its time"
        return f"against plain training {when} it {longer[0].claim}: {_listed(longer)}"
    steps = [(d.hours / d.steps) / (p.hours / p.steps) for d, p in found.equal if p.hours]
    ratio = spread_of(steps).mean
    if math.isnan(ratio):
        return "the time of a step is not known"
    if ratio <= 1 + EQUAL_TIME:
        return f"equal steps are equal time (a distilled step takes {ratio:.2f} times as long)"
    return (
        "no plain run of equal time is among the runs (a distilled step takes "
        f"{ratio:.1f} times as long: SOLVER.MAX_ITER {ratio * found.runs[0].planned:.0f})"
    )


def _notes(found: Comparison, images: Intervals) -> List[str]:
    pairs, different = found.equal or found.longer, found.different
    width = student_t.ppf(0.975, len(pairs) - 1)
    notes = [
        f"With {len(pairs)} seeds, 95 % are {width:.1f} standard errors on each side (Student's "
        "t); that interval must leave out 0 for a help or a harm."
    ]
    if len(pairs) == 1:
        notes = ["One seed is weaker than several: how much another seed changes is not known."]
    elif images:
        low, high = images["bbox/AP"]
        notes.append(f"Other test images of this kind: AP {low:+.1f} to {high:+.1f} (95 %).")
    return notes + [f"Beside distillation, {', '.join(different[:5])} differ."] * bool(different)


def _rows(pairs: Sequence[Pair], images: Intervals) -> List[Row]:
    """AP, AP75, and AP of each class that all have."""
    if not pairs:
        return []
    runs = [run for pair in pairs for run in pair]
    classes = [k for k in runs[0].results if k.startswith("bbox/AP-")]
    classes = [k for k in classes if all(k in x.results for x in runs)]
    ends = images if len(pairs) == 1 else {}
    return [_row(key, pairs, ends) for key in ("bbox/AP", "bbox/AP75", *classes)]


def _row(key: str, pairs: Sequence[Pair], ends: Intervals) -> Row:
    distilled, plain = (
        {i: pair[k].results.get(key, math.nan) for i, pair in enumerate(pairs)} for k in (0, 1)
    )
    _, change, _, se = paired_difference(distilled, plain)
    wide = student_t.ppf(0.975, len(pairs) - 1) * se
    low, high = ends.get(key, (change - wide, change + wide))
    means = spread_of(list(plain.values())).mean, spread_of(list(distilled.values())).mean
    name = key.removeprefix("bbox/").removeprefix("AP-")
    return Row(name, len(pairs), *means, change, se, low, high)
