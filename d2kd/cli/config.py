"""`d2kd config`."""

import json
from typing import Tuple

import click

from .base import SETTINGS, config_argument, debug_option, refuse_options


@click.command("config", context_settings=SETTINGS)
@config_argument(required=False)
@click.argument("options", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--schema", is_flag=True, help="A JSON schema of all keys instead; without CONFIG.")
@click.option("--import", "imports", multiple=True, metavar="FILE",
              help="Python file of yours that registers heads or detectors.")  # fmt: skip
@debug_option
def show_config(
    config: str | None, options: Tuple[str, ...], schema: bool, imports: Tuple[str, ...]
) -> None:
    """Print the whole config of CONFIG, or a schema of all keys.

    Without CONFIG, the defaults. KEY VALUE pairs need a CONFIG before them.

    \b
    d2kd config train/gfl_R_18_FPN_1x.yaml SOLVER.MAX_ITER 5000
    d2kd config --schema
    """
    refuse_options([config or "", *options])
    if schema and config:
        raise click.UsageError("--schema is of all keys: give it without CONFIG and KEY VALUE.")
    from ..config import get_d2kd_cfg, merge_config_file, merge_options
    from ..config.schema import config_schema
    from ..engine.command_line import import_files

    import_files(imports)
    if schema:
        click.echo(json.dumps(config_schema(), indent=1))
        return
    cfg = get_d2kd_cfg()
    if config:
        merge_config_file(cfg, config, "CONFIG")
    merge_options(cfg, options)
    click.echo(cfg.dump(), nl=False)
