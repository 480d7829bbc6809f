"""`d2kd replay`."""

from functools import partial
from pathlib import Path
from typing import Tuple

import click

from ..engine.options import OPTIONS
from .base import SETTINGS, debug_option, echo, refuse_options


@click.command(context_settings=SETTINGS)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--import", "imports", metavar="FILE", multiple=True,
              help=f"{OPTIONS['import'][1]}, as for the run.")  # fmt: skip
@click.option(
    "--trust-config", metavar="FILE", multiple=True, help=OPTIONS["trust-config"][1] + "."
)
@debug_option
def replay(
    folder: Path, options: Tuple[str, ...], imports: Tuple[str, ...], trust_config: Tuple[str, ...]
) -> None:
    """Repeat the step in which a run stopped, and say where its numbers went wrong.

    FOLDER is OUTPUT_DIR/replay/<iteration>, which a run leaves where a step fails: NaN, a spike, an
    assertion, an exception. The step of several ranks is repeated by as many processes, where all
    have left a capsule and no GPU is used. KEY VALUE pairs name files that have moved, such as
    DISTILL.TEACHER.WEIGHTS. The exit code is 1 if the step does not fail as it did, bit by bit.

    \b
    d2kd replay output/distilled/replay/1234
    """
    refuse_options([str(folder), *options])
    from ..inspection.replay import replay as replay_step

    lines, same = replay_step(folder, options, partial(_prepare, imports, trust_config))
    for line in lines:
        echo(line)
    if not same:
        raise SystemExit(1)


def _prepare(imports: Tuple[str, ...], trust_config: Tuple[str, ...]) -> None:
    from ..config.lazy import trust
    from ..engine.command_line import import_files

    import_files(imports)
    for path in trust_config:
        trust(path)
