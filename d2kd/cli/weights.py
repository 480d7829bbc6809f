"""The options --weights and --last of the commands that take one checkpoint."""

import functools
from typing import Any, Callable

import click

from ..errors import ConfigError

LAST = "--last"
"""The value of `weights` that stands for a run's last checkpoint."""


def with_last(function: Callable) -> Callable:
    """Decorator: the option --weights, of which --last is a value, for `run_weights`."""

    @functools.wraps(function)
    def of_one(*args: Any, weights: str, last: bool, **given: Any) -> Any:
        if weights and last:
            raise ConfigError(f"--weights {weights} and --last are two checkpoints: give one.")
        return function(*args, weights=LAST if last else weights, **given)

    text = "The run's last checkpoint, not its best."
    decorated = click.option("--last", is_flag=True, help=text)(of_one)
    text = "Default: the run's best checkpoint, or the last where none is best."
    return click.option("--weights", default="", metavar="FILE", help=text)(decorated)
