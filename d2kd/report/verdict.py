"""Whether distillation helped, in a sentence that says how sure that is."""

import math
from dataclasses import dataclass
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
        low, high: two standard errors around `change`; for one seed a 95 % interval over the
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
    def word(self) -> str:
        """What distillation does."""
        if self.change > 0 and self.low >= 0:
            return "helps"
        return "hurts" if self.change < 0 and self.high <= 0 else "makes no difference"

    @property
    def sure(self) -> str:
        """How sure the change is."""
        if self.seeds > 1:
            return f"standard error {self.se:.1f}"
        known = not math.isnan(self.low)
        return f"95 % interval {self.low:+.1f} to {self.high:+.1f}" if known else "one seed"


@dataclass
class Verdict:
    """A sentence, what is to be known about it, and the numbers behind it."""

    text: str
    notes: List[str]
    rows: List[Row]


def verdicts(runs: Sequence[RunFolder]) -> List[Verdict]:
    """One for each setting of distilled runs; what fails is put into the runs' `missing`."""
    found = compare_runs(runs)
    return [_verdict(x, _subject(x, len(found) > 1)) for x in found]


def _subject(found: Comparison, with_names: bool) -> str:
    names = f", {', '.join(run.name for run in found.runs)}" if with_names else ""
    return f"Distillation ({', '.join(found.runs[0].heads) or 'no methods'}{names})"


def _verdict(found: Comparison, subject: str) -> Verdict:
    if not found.equal:
        return Verdict(f"No verdict on {subject[0].lower()}{subject[1:]}.", _without(found), [])
    rows = _rows(found.equal)
    longer = [x._replace(name=f"{x.name}, longer plain run") for x in _rows(found.longer)[:2]]
    overall, classes = rows[:2], rows[2:]
    text = f"{subject} {_claim(rows[0])}: {_changes(overall)}; {_time(found, longer)}"
    if len(classes) > 1:
        most = sorted(classes, key=lambda x: -abs(x.change))[:3]
        text += f"; the largest changes of {len(classes)} classes: {_changes(most)}"
    notes = [*_notes(found, rows[0]), *_without(found)]
    return Verdict(f"{text}.", notes, [*overall, *longer, *classes])


def _without(found: Comparison) -> List[str]:
    return [f"{', '.join(names)}: {reason}." for reason, names in found.without.items()]


def _changes(rows: Sequence[Row]) -> str:
    known = [x for x in rows if not math.isnan(x.change)]
    return ", ".join(f"{x.name.partition(',')[0]} {x.change:+.1f} ({x.sure})" for x in known)


def _claim(row: Row) -> str:
    if math.isnan(row.low):
        return "cannot be judged by one pair of runs without its detections"
    if row.word == "makes no difference":
        return f"{row.word} that {row.seeds} seeds can show".replace("1 seeds", "one seed")
    return f"{row.word} over {row.seeds} seeds" if row.seeds > 1 else f"{row.word} in this one pair"


def _time(found: Comparison, longer: Sequence[Row]) -> str:
    if longer:
        factor = spread_of([plain.hours / run.hours for run, plain in found.longer]).mean
        when = f"in {factor:.1f} times its time" if factor > 1 + EQUAL_TIME else "in equal time"
        return f"against plain training {when} it {_claim(longer[0])}: {_changes(longer)}"
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


def _notes(found: Comparison, ap: Row) -> List[str]:
    notes = []
    if ap.seeds > 1:
        chance = 200 * student_t.sf(2, ap.seeds - 1)
        notes.append(f"Over {ap.seeds} seeds chance alone gives a difference of two standard "
                     f"errors, up or down, in {chance:.0f} % of comparisons.")  # fmt: skip
    else:
        notes.append("One seed is weaker evidence than several: the interval is over test images, "
                     "and another seed may change the difference as much.")  # fmt: skip
    if found.different:
        notes.append("Beside distillation they differ in " + ", ".join(found.different[:5]) + ".")
    return notes


def _rows(pairs: Sequence[Pair]) -> List[Row]:
    """AP, AP75, and AP of each class that all have."""
    if not pairs:
        return []
    runs = [run for pair in pairs for run in pair]
    classes = [k for k in runs[0].results if k.startswith("bbox/AP-")]
    classes = [k for k in classes if all(k in x.results for x in runs)]
    ends = intervals(*pairs[0]) if len(pairs) == 1 else {}
    return [_row(key, pairs, ends) for key in ("bbox/AP", "bbox/AP75", *classes)]


def _row(key: str, pairs: Sequence[Pair], ends: Intervals) -> Row:
    distilled, plain = (
        {i: pair[k].results.get(key, math.nan) for i, pair in enumerate(pairs)} for k in (0, 1)
    )
    _, change, _, se = paired_difference(distilled, plain)
    low, high = ends.get(key, (change - 2 * se, change + 2 * se))
    means = spread_of(list(plain.values())).mean, spread_of(list(distilled.values())).mean
    name = key.removeprefix("bbox/").removeprefix("AP-")
    return Row(name, len(pairs), *means, change, se, low, high)
