"""Whether a pair ended where it was published."""

from typing import Dict, List, Sequence, Tuple

from ..evaluation.spread import spread_of
from ..study import Study, collect
from .pairs import WEIGHTS, Pair
from .plan import with_metric


def verdict_of(pair: Pair, study: Study, options: Sequence[str] = ()) -> Tuple[List[str], bool]:
    """AP of each row and, where the pair was published, whether it agrees.

    Args:
        pair: what was trained.
        study: of `plan_of`.
        options: KEY VALUE pairs with which it was trained.

    Returns:
        Lines, and False where the AP do not agree.
    """
    values = collect(with_metric(study))
    lines = values_of(study)
    found = values[pair.name]
    if not found:
        return [*lines, "not compared: the distilled student is not there"], True
    if typed := [key for key in options[::2] if key != WEIGHTS]:
        return [*lines, f"not compared: trained with other {', '.join(typed)}"], True
    if pair.ap is None or pair.tolerance is None:
        said = f" ({pair.published})" if pair.published != "-" else ""
        return [*lines, f"not compared: no AP of this very pair was published{said}"], True
    mean = spread_of(list(found.values())).mean
    off = mean - pair.ap
    agrees = abs(off) <= pair.tolerance
    told = f"published {pair.ap:.1f}, here {mean:.1f} ({off:+.1f}, tolerance {pair.tolerance:.1f})"
    word = "agrees" if agrees else "**does not agree**"
    return [*lines, *_plain(pair, study, values), f"distilled: {told}: {word}"], agrees


def values_of(study: Study) -> List[str]:
    """A line of each row."""
    return [f"{row}: {_mean(found)}" for row, found in collect(with_metric(study)).items()]


def _plain(pair: Pair, study: Study, values: Dict[str, Dict[int, float]]) -> List[str]:
    found = values[study.baseline]
    if pair.plain is None or not found:
        return []
    mean = spread_of(list(found.values())).mean
    return [f"plain: published {pair.plain:.1f}, here {mean:.1f} ({mean - pair.plain:+.1f})"]


def _mean(found: Dict[int, float]) -> str:
    if not found:
        return "not run"
    spread = spread_of(list(found.values()))
    return f"{spread.mean:.1f} AP" + (f", {spread.seeds} seeds" if spread.seeds > 1 else "")
