"""Keys that belong to the length of a run and to its batch, fitted to those that it has."""

import contextlib
import logging
import math
from typing import Any, Collection, Dict, Iterator, Mapping, Tuple

from detectron2.config import CfgNode

from ..errors import ConfigError
from ..solver import STOCK_SCHEDULES
from .keys import flatten
from .loading import merge_options
from .rules import is_number
from .validate import check_value

LENGTH = "SOLVER.MAX_ITER"
_BATCH, _RATE, _STEPS = "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.STEPS"
_WARMUP, _SCHEDULE = "SOLVER.WARMUP_ITERS", "DISTILL.SCHEDULE"
_TOKENS, _OF_PRESETS = "DISTILL.MasKD.WARMUP", 180_000  # steps of the runs that those are of
_SAVED, TESTED, _BEST = "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD", "SOLVER.BEST_METRIC"
OF_LENGTH = (_WARMUP, _STEPS, _SCHEDULE, _TOKENS, _SAVED, TESTED)
_READ = (LENGTH, _BATCH, _RATE, _STEPS, _WARMUP, _SAVED, TESTED)
_OPTIMIZED = {"SGD": ("in proportion", 1.0), "AdamW": ("with the square root", 0.5),
              "Adam": ("with the square root", 0.5)}  # fmt: skip

Keys = Mapping[str, Any]
_Fit = Tuple[str, Any, str]  # key, value, and why


def fit_run(
    cfg: CfgNode, own: CfgNode, typed: Collection[str], tests: bool, begun: Keys | None = None
) -> None:
    """Fit what was not typed to the length and the batch that were, in place, and say it.

    A config at its own length and batch stays as it is, but for a warm-up longer than a quarter of
    it, steps that all lie behind its end, the preset of MasKD's warm-up in a run shorter than that
    is of, and, where it `tests`, a run without evaluations.

    Args:
        cfg: with what was typed.
        own: the config without it.
        typed: the keys that were typed, which stay.
        tests: whether a run that evaluates only at its end is to do it on the way, too.
        begun: of a run that goes on, or is repeated: its keys, with the length that it began with.
            What was fitted to that stays; where `own` was edited since, it is fitted anew.

    Raises:
        ConfigError: a key that this reads has a value that it cannot have.
    """
    now, before, begun = flatten(cfg), flatten(own), begun or {}
    _check(now, before)
    fits = {key: (value, why) for key, value, why in _fits(now, before, tests)}
    began = {**now, LENGTH: begun.get(LENGTH, now[LENGTH])}
    check_value(LENGTH, began[LENGTH])
    then = {key: value for key, value, _ in _fits(began, before, tests)}
    for key in (_WARMUP, _STEPS, _SCHEDULE, _TOKENS, *fits):
        unedited = map(_tuple, (before[key], then.get(key)))
        if key in begun and key != _BEST and _tuple(begun[key]) in unedited:
            fits[key] = begun[key], "as the run began"
    for key, (value, why) in fits.items():
        if key not in typed and _tuple(value) != _tuple(now[key]):
            merge_options(cfg, [key, value])
            logging.getLogger(__name__).warning(
                "%s is %r instead of %r, %s; type it for another value.",
                key, _tuple(value), _tuple(now[key]), why,
            )  # fmt: skip


def _check(now: Keys, own: Dict[str, Any]) -> None:
    """Check what is read; wrong values of `own` that were replaced count as what replaced them."""
    for key in _READ:
        check_value(key, now[key])
        with contextlib.suppress(ConfigError):
            check_value(key, own[key])
            continue
        own[key] = now[key]


def _fits(now: Keys, own: Keys, tests: bool) -> Iterator[_Fit]:
    length = now[LENGTH]
    if now["SOLVER.LR_SCHEDULER_NAME"] in STOCK_SCHEDULES and now[_WARMUP] > length / 4:
        yield _WARMUP, max(1, length // 10), f"since that is over a quarter of {LENGTH} {length}"
    if now["SOLVER.LR_SCHEDULER_NAME"] == "WarmupMultiStepLR" and own[_STEPS]:
        yield from _fit_steps(own[_STEPS], length, own[LENGTH])
    schedule = own[_SCHEDULE]
    if length != own[LENGTH] and all(map(is_number, schedule)):
        scaled = tuple(x if x < 0 else _scaled(x, length, own[LENGTH]) for x in schedule)
        yield _SCHEDULE, scaled, _in_proportion(length, own[LENGTH])
    if "MasKD" in now["DISTILL.HEADS"] and now[_TOKENS] == -1 and length < _OF_PRESETS:
        why = f"a 25th of {LENGTH} {length}, since those of the presets are of runs of"
        yield _TOKENS, max(1, length // 25), f"{why} {_OF_PRESETS}"
    if own[_SAVED] < own[LENGTH] and now[_SAVED] >= length:
        yield _SAVED, _quarter(length), f"a quarter of {LENGTH} {length}"
    at_end = own[TESTED] == own[LENGTH]  # which is not what a file that sets a length alone says
    if now[TESTED] >= length and not at_end or (tests and not now[TESTED]):
        yield TESTED, _quarter(length), f"a quarter of {LENGTH} {length}"
    elif not now[TESTED]:
        yield _BEST, "", f"since {TESTED} is 0, so that there is nothing to choose from"
    yield from _fit_rate(now, own)


def _fit_steps(steps: Tuple[int, ...], length: int, own: int) -> Iterator[_Fit]:
    if min(steps) >= max(own, length):
        ends = sorted({max(1, round(length * part)) for part in (2 / 3, 8 / 9)})
        yield _STEPS, tuple(ends), f"since the run ends before, after {LENGTH} {length}"
    elif length != own and min(steps) < own:
        scaled = sorted({max(1, _scaled(x, length, own)) for x in steps})
        yield _STEPS, tuple(scaled), _in_proportion(length, own)


def _fit_rate(now: Keys, own: Keys) -> Iterator[_Fit]:
    """Linear for SGD (Goyal et al., 2017), the root for Adam and AdamW (Malladi et al., 2022)."""
    batch, before, optimizer = now[_BATCH], own[_BATCH], now["SOLVER.OPTIMIZER"]
    if batch != before and optimizer in _OPTIMIZED:
        how, power = _OPTIMIZED[optimizer]
        rate = float(f"{own[_RATE] * (batch / before) ** power:.4g}")
        yield _RATE, rate, f"{how} to {_BATCH} {batch} instead of {before}"


def _scaled(x: float, length: int, own: int) -> int:
    return round(x * length / own)


def _in_proportion(length: int, own: int) -> str:
    return f"in proportion to {LENGTH} {length} instead of {own}"


def _quarter(length: int) -> int:
    return math.ceil(length / 4)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
