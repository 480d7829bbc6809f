"""Robustness of several models side by side, of runs or from one yaml: run and reported."""

from .cells import Cell
from .evaluations import run_plan
from .markdown import write_report
from .plan import Plan, load_plan, plan_of_runs
from .results import collect

__all__ = ["Cell", "Plan", "collect", "load_plan", "plan_of_runs", "run_plan", "write_report"]
