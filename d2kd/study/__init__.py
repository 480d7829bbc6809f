"""Studies: a matrix of methods and seeds from one yaml, run, collected and reported."""

from .plan import Run, Study, load_study
from .report import summarize, write_report
from .run import collect, run_study

__all__ = ["Run", "Study", "collect", "load_study", "run_study", "summarize", "write_report"]
