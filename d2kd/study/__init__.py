"""Studies: a matrix of methods and seeds from one yaml, run, collected and reported."""

from .commands import Run
from .markdown import summarize, write_report
from .plan import Study, check_imports, load_study
from .results import collect, collect_more
from .robustness import collect_robustness, run_robustness
from .tables import table_of_tries
from .trainings import run_study
from .tune import check_tuned, run_plan, tune_study

__all__ = [
    "Run",
    "Study",
    "check_imports",
    "check_tuned",
    "collect",
    "collect_more",
    "collect_robustness",
    "load_study",
    "run_plan",
    "run_robustness",
    "run_study",
    "summarize",
    "table_of_tries",
    "tune_study",
    "write_report",
]
