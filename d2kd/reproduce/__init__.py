"""Published pairs of teacher and student, trained again and compared; rows of studies likewise."""

from .costs import Cost, cost_of
from .dry_run import go_through, new_dry_run, reason_against_dry_run
from .needs import check_needs
from .pairs import Pair, load_pair, load_pairs
from .plan import plan_of, run_stages
from .reports import Report
from .rows import BEYOND, folder_of_report, plan_of_row, repeat_row
from .verdict import values_of, verdict_of

__all__ = [
    "BEYOND",
    "Cost",
    "Pair",
    "Report",
    "check_needs",
    "cost_of",
    "folder_of_report",
    "go_through",
    "load_pair",
    "load_pairs",
    "new_dry_run",
    "plan_of",
    "plan_of_row",
    "reason_against_dry_run",
    "repeat_row",
    "run_stages",
    "values_of",
    "verdict_of",
]
