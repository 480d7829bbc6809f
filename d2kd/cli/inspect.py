"""`d2kd check`, `d2kd methods`, `d2kd detectors`: looking before training."""

from typing import Any, Tuple

import click

from .base import SETTINGS, debug_option, namespace, with_config


@click.command(context_settings=SETTINGS)
@with_config("teacher", "teacher-weights", "distill", "data", "unlabelled", "import")
def check(config: str, options: Tuple[str, ...], **given: Any) -> None:
    """Build everything that CONFIG names, run two iterations, and say what is wrong.

    Nothing is kept. The arguments are those of `d2kd train`.
    """
    from ..data import register_custom_datasets
    from ..engine.main import resolve_config
    from ..inspection.checkup import check_run

    cfg = resolve_config(namespace(config, options, **given))
    register_custom_datasets(cfg)
    for text in check_run(cfg):
        click.echo(text + "\n")


@click.command()
@click.argument("name", required=False)
@debug_option
def methods(name: str | None) -> None:
    """What can be distilled by which method; with NAME, that method's keys."""
    from ..inspection.combinations import describe_method, method_matrix

    click.echo(describe_method(name) if name else method_matrix())


@click.command()
@debug_option
def detectors() -> None:
    """The detectors that can be students and teachers, and their configs."""
    from ..inspection.combinations import detector_table

    click.echo(detector_table())
