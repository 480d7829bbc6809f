"""From a folder of labelled images to a distilled, exported student: a plan, and its stages."""

from .choose import Wishes
from .plan import Plan, make_plan, open_plan, read_plan, write_plan
from .stages import hold_plan, remove_plan, run_plan, summary

__all__ = [
    "Plan",
    "Wishes",
    "hold_plan",
    "make_plan",
    "open_plan",
    "read_plan",
    "remove_plan",
    "run_plan",
    "summary",
    "write_plan",
]
