"""Studies: a matrix of methods and seeds from one yaml, run, collected and reported."""

from .markdown import summarize, write_report
from .plan import Run, Study, check_imports, load_study
from .robustness import collect_robustness, run_robustness
from .trainings import collect, collect_more, run_study

__all__ = [
    "Run",
    "Study",
    "check_imports",
    "collect",
    "collect_more",
    "collect_robustness",
    "load_study",
    "run_robustness",
    "run_study",
    "summarize",
    "write_report",
]
