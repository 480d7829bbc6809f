"""The command `d2kd`: thin over the library, one file a group of commands.

What a command needs of the library is imported when it runs, so that help, completion and usage
errors wait for neither PyTorch nor Detectron2.
"""

from .base import main
from .compare import compare
from .completion import completion
from .config import show_config
from .convert import convert
from .data import data
from .distill import distill
from .inspect import check, detectors, maps, methods, quality, teachers
from .predict import predict
from .replay import replay
from .reproduce import reproduce
from .robustness import robustness
from .ship import export, report
from .study import study
from .train import evaluate, train

for _command in (
    distill,
    train,
    evaluate,
    predict,
    check,
    methods,
    detectors,
    teachers,
    show_config,
    data,
    convert,
    export,
    report,
    compare,
    replay,
    study,
    reproduce,
    robustness,
    maps,
    quality,
    completion,
):
    main.add_command(_command)

__all__ = ["main"]
