"""Robustness of several models side by side, from one yaml: run, collected and reported."""

from .cells import Cell
from .plan import Plan, load_plan, plan_of_runs
from .report import write_report
from .run import collect, run_plan

__all__ = ["Cell", "Plan", "collect", "load_plan", "plan_of_runs", "run_plan", "write_report"]
