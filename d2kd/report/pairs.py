"""Which plain runs are the counterparts of distilled ones."""

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Sequence, Tuple

from ..engine.compare import FREE
from .runs import RunFolder

Pair = Tuple[RunFolder, RunFolder]
"""A distilled run and a plain one of its seed."""

EQUAL_TIME = 0.15  # a plain run of equal time may take this share less, or more
_STEPS = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS")
_STARTS = ("MODEL.WEIGHTS", "MODEL.TIMM.PRETRAINED", "MODEL.TIMM.CHECKPOINT", "MODEL.CHANNELS_LAST",
           "MODEL.META_ARCHITECTURE")  # fmt: skip


@dataclass
class Comparison:
    """Distilled runs that differ in their seeds alone, with their plain counterparts.

    Attributes:
        runs: the distilled ones.
        equal: pairs of equal steps.
        longer: pairs whose plain run has more steps and took about the same time, or more; the
            nearest.
        without: why runs have no counterpart -> their names.
    """

    runs: List[RunFolder]
    equal: List[Pair] = field(default_factory=list)
    longer: List[Pair] = field(default_factory=list)
    without: Dict[str, List[str]] = field(default_factory=dict)

    @property
    def different(self) -> List[str]:
        """Keys that differ in the pairs, beside those of distillation and of the length."""
        pairs = self.equal or self.longer
        keys = dict.fromkeys(key for pair in pairs for key in _different(*pair))
        return [key for key in keys if self.equal or key not in _STEPS]


def compare_runs(runs: Sequence[RunFolder]) -> List[Comparison]:
    """A comparison for each setting of distilled runs."""
    groups: Dict[str, Comparison] = {}
    plain = [run for run in runs if run.config and not run.distilled]
    for run in runs:
        if run.distilled:
            setting = {k: x for k, x in run.config.items() if not k.startswith((*FREE, "SEED"))}
            _add(run, plain, groups.setdefault(repr(setting), Comparison([])))
    return list(groups.values())


def _add(run: RunFolder, plain: Sequence[RunFolder], group: Comparison) -> None:
    seed = run.config.get("SEED", -1)
    pairs = [*group.equal, *group.longer]
    if twin := [x.name for x, _ in pairs if x.config.get("SEED", -1) == seed != -1]:
        group.without.setdefault(f"a repetition of {twin[0]}", []).append(run.name)
        return
    group.runs.append(run)
    found, reason = _counterparts(run, plain)
    if seed == -1:  # without a seed nothing pairs runs: each plain one counts once
        used = [id(x) for _, x in pairs]
        found = [x for x in found if id(x) not in used]
        reason = reason or "without SEED, and no further plain run is among the runs"
    equal = [x for x in found if x.planned == run.planned]
    longer = [x for x in found if x.planned > run.planned
              and 0 < (1 - EQUAL_TIME) * run.hours <= x.hours]  # fmt: skip
    if equal:
        best = min(equal, key=lambda x: len(_different(run, x)))
        group.equal.append((run, best))
    elif not longer:
        reason = reason or f"no plain run has {run.planned:.0f} steps too (SOLVER.MAX_ITER)"
        group.without.setdefault(reason, []).append(run.name)
    if longer:
        keys = {id(x): len(set(_different(run, x)) - {*_STEPS}) for x in longer}
        best = min(longer, key=lambda x: (keys[id(x)], abs(x.hours - run.hours)))
        group.longer.append((run, best))


def _counterparts(run: RunFolder, plain: Sequence[RunFolder]) -> Tuple[List[RunFolder], str]:
    """Finished plain runs of the same student, data and seed; if there is none, why."""
    others = [_architecture(run, x) for x in plain]
    nearest = ", ".join(min(others, key=len, default=[])[:3])
    checks: List[Tuple[str, Callable[[RunFolder], bool]]] = [
        ("no plain student of this architecture is among the runs"
         + f" ({nearest} differ)" * bool(nearest)
         + "; train it with the same command without --teacher and --distill, and name its folder "
         "too", lambda x: not _architecture(run, x)),
        ("trained on other images than {}", lambda x: data_of(x, "TRAIN") == data_of(run, "TRAIN")),
        ("evaluated on other images than {}", lambda x: data_of(x, "TEST") == data_of(run, "TEST")),
        (f"another seed than {{}}; train a plain student with SEED {run.config.get('SEED')}",
         lambda x: x.config.get("SEED") == run.config.get("SEED")),
        ("the plain student, {}, is not finished, or has no box AP in results.json",
         lambda x: x.done),
    ]  # fmt: skip
    if not run.done:
        return [], "not finished, or no box AP in results.json"
    for reason, fits in checks:
        found = [x for x in plain if fits(x)]
        if not found:
            return [], reason.replace("{}", ", ".join(x.name for x in plain), 1)
        plain = found
    return list(plain), ""


def _different(run: RunFolder, other: RunFolder) -> List[str]:
    """Keys that both have and that change what a plain student learns, data and seed aside."""
    aside = (*FREE, "DISTILL.", "DATASETS.", "SEED", "MODEL.META_ARCHITECTURE")
    return [
        k for k, x in run.config.items()
        if not k.startswith(aside) and k in other.config and other.config[k] != x
    ]  # fmt: skip


def _architecture(run: RunFolder, other: RunFolder) -> List[str]:
    """Keys of the detector, where its training starts aside, that differ."""
    keys = [k for k in _different(run, other) if k.startswith("MODEL.") and k not in _STARTS]
    return keys + ["MODEL.META_ARCHITECTURE"] * (_detector(run) != _detector(other))


def _detector(run: RunFolder) -> Any:
    return run.config.get("DISTILL.STUDENT" if run.distilled else "MODEL.META_ARCHITECTURE")


def data_of(run: RunFolder, key: str) -> List[str]:
    """Data sets by content where it is known, otherwise by name."""
    names = run.config.get(f"DATASETS.{key}")
    known = run.evaluated.get("datasets") or run.record.get("datasets")
    known = known if isinstance(known, dict) else {}
    return [str(known.get(str(x)) or x) for x in names] if isinstance(names, list) else []
