"""The options of commands that run their work as jobs elsewhere."""

from pathlib import Path
from typing import Any, Callable, Tuple

import click


def with_executor(function: Callable) -> Callable:
    """Decorator: the options --executor and --slurm."""
    function = click.option(
        "--slurm", multiple=True, metavar="KEY=VALUE",
        help="Option of sbatch, such as partition=gpu or time=600 (minutes).",
    )(function)  # fmt: skip
    return click.option(
        "--executor", type=click.Choice(["local", "slurm"]),
        help="Run them as jobs of submitit; --jobs of them at the same time.",
    )(function)  # fmt: skip


def build_executor(kind: str | None, slurm: Tuple[str, ...], output: Path) -> Any:
    """Where jobs run, as the options say; None for this machine, without submitit.

    Args:
        kind: what --executor was given.
        slurm: each --slurm.
        output: folder of results, with submitit's files in a folder of it.

    Raises:
        click.UsageError: --slurm is no KEY=VALUE, or comes without --executor slurm.
        ConfigError: see `Executor`.
    """
    from ..engine.jobs import Executor

    pairs = [option.partition("=") for option in slurm]
    if (slurm and kind != "slurm") or not all(key and sign for key, sign, _ in pairs):
        raise click.UsageError("--slurm takes KEY=VALUE, and goes with --executor slurm.")
    if kind is None:
        return None
    return Executor(kind, output / "submitit", {key: value for key, _, value in pairs})
