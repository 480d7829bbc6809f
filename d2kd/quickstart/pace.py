"""The pace of the quick start's plain and distilled steps."""

from dataclasses import replace
from pathlib import Path

from ..engine import pace
from .training import load_config

# 1.9 and 2.1 were measured on two cores and on one. At 2.5 the whole quick start takes 14 minutes
# on two cores, so that no measurement makes it longer than 20.
MAX_RATIO = 2.5
LIMITS = (1.0, MAX_RATIO)  # a distilled step contains a plain one


def measure_pace(teacher: Path, turns: int = pace.TURNS) -> pace.Pace:
    """Time plain and distilled steps of this machine, on models that are thrown away.

    Args:
        teacher: a file of `save_teacher`.
        turns: of each kind.
    """
    plain, distilled = (load_config(name, Path("thrown_away")) for name in ("student", "distilled"))
    distilled.DISTILL.TEACHER.WEIGHTS = (str(teacher),)
    return replace(pace.measure_pace(plain, distilled, turns), limits=LIMITS)
