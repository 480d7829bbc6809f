"""The command `d2kd`: thin over the library, one file a group of commands."""

from .base import main
from .convert import convert
from .data import data
from .inspect import check, detectors, methods
from .robustness import robustness
from .ship import export, predict, report
from .train import evaluate, train

for _command in (
    train,
    evaluate,
    predict,
    check,
    methods,
    detectors,
    data,
    convert,
    export,
    report,
    robustness,
):
    main.add_command(_command)

__all__ = ["main"]
