"""Published pairs of teacher and student, trained again and compared; rows of studies likewise."""

from .costs import Cost, cost_of
from .dry_run import DRY_RUN, prepare_dry_run, reason_against_dry_run
from .needs import check_needs
from .pairs import Pair, load_pair, load_pairs
from .plan import plan_of, run_stages
from .rows import load_row, repeat_row
from .verdict import verdict_of

__all__ = [
    "DRY_RUN",
    "Cost",
    "Pair",
    "check_needs",
    "cost_of",
    "load_pair",
    "load_pairs",
    "load_row",
    "plan_of",
    "prepare_dry_run",
    "repeat_row",
    "reason_against_dry_run",
    "run_stages",
    "verdict_of",
]
