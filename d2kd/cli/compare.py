"""`d2kd compare`."""

from contextlib import contextmanager
from typing import Iterator

import click

from .base import debug_option, echo, end

_DIFFERENT, _WRONG = 1, 2  # exit codes, as diff has them


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--assert-equal", is_flag=True, help="Exit with 1 if anything that counts differs.")
@debug_option
def compare(a: str, b: str, assert_equal: bool) -> None:
    """Say where two runs, checkpoints or configs differ first.

    A and B are two folders of runs, two checkpoints (.pth, .pkl, .safetensors) or two configs.
    Times never count, nor do keys that change nothing in what is learnt, such as OUTPUT_DIR.

    \b
    d2kd compare output/before output/after --assert-equal
    """
    with _errors_end_with(_WRONG):
        from ..inspection.compare import compare as compare_two

        lines, equal = compare_two(a, b)
    for line in lines:
        echo(line)
    if assert_equal and not equal:
        raise SystemExit(_DIFFERENT)


@contextmanager
def _errors_end_with(code: int) -> Iterator[None]:
    """Errors end the process with their usual line, and with this exit code."""
    try:
        yield
    except Exception as error:
        try:
            end(error)
        except SystemExit as line:
            click.echo(line.code, err=True)
            raise SystemExit(code) from error
