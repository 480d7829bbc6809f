"""Whether a pair ended where it was published."""

from typing import Dict, List

from ..evaluation.spread import spread_of
from ..study import Study, collect
from .needs import is_whole
from .pairs import Pair


def verdict_of(pair: Pair, study: Study, dry: bool = False) -> List[str]:
    """Lines: AP of each row and, where the pair was published, whether it agrees.

    Args:
        pair: what was trained.
        study: of `plan_of`.
        dry: it was a dry run, whose AP means nothing.
    """
    values = collect(study)
    lines = [f"{row}: {_mean(found)}" for row, found in values.items()]
    if dry:
        return [*lines, "dry run: every stage ran; the AP mean nothing"]
    if not is_whole([*pair.cfg.DATASETS.TRAIN, *pair.cfg.DATASETS.TEST]):
        return [*lines, "not compared with what was published: COCO is not complete here"]
    if pair.ap is None or pair.tolerance is None or not values[pair.name]:
        return [*lines, f"no AP to compare with was published for this pair ({pair.published})"]
    mean = spread_of(list(values[pair.name].values())).mean
    off = mean - pair.ap
    agrees = "agrees" if abs(off) <= pair.tolerance else "**does not agree**"
    told = f"published {pair.ap:.1f}, here {mean:.1f} ({off:+.1f}, tolerance {pair.tolerance:.1f})"
    return [*lines, *_plain(pair, study, values), f"distilled: {told}: {agrees}"]


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
