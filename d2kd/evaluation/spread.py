"""Means over seeds, and how sure they are."""

import math
import statistics
from typing import Dict, NamedTuple, Sequence


class Spread(NamedTuple):
    """Number of finite values, their mean, sample standard deviation and standard error.

    The mean is nan where there is none, the others where there are fewer than two.
    """

    seeds: int
    mean: float
    sd: float
    se: float


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of values; those that are not finite count as missing."""
    found = [x for x in values if math.isfinite(x)]
    mean = statistics.fmean(found) if found else math.nan
    sd = statistics.stdev(found) if len(found) > 1 else math.nan
    return Spread(len(found), mean, sd, sd / math.sqrt(max(len(found), 1)))


def paired_difference(values: Dict[int, float], baseline: Dict[int, float]) -> Spread:
    """Spread of the differences to a baseline, seed -> value, on the seeds that both have."""
    return spread_of([x - baseline[seed] for seed, x in values.items() if seed in baseline])
