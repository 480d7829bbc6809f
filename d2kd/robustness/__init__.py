"""Robustness of several models side by side, of runs or from one yaml: run and reported."""

from .cells import Cell
from .plan import Plan, load_plan, plan_of_runs
from .report import write_report
from .run import collect, run_plan

__all__ = ["Cell", "Plan", "collect", "load_plan", "plan_of_runs", "run_plan", "write_report"]
