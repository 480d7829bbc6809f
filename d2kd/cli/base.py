"""The group of commands, its errors, and the options that several commands share."""

import difflib
import os
from argparse import Namespace
from typing import Any, Callable, Dict, List, NoReturn, Sequence

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..engine.options import OPTIONS, TOKENS
from ..errors import ConfigError, ignore_warnings_of_dependencies
from ..file_io import CONFIGS, expect
from ..text import make_output_plain, plain, plain_lines
from .weights import LAST, with_last

_HINT = "(--debug shows the traceback)"
_LONGEST_LINE = 10_000  # characters


class _Group(click.Group):
    """Commands whose errors are one line, and whose names are suggested when misspelt."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            end(error)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        near = difflib.get_close_matches(args[0], self.commands, n=1)
        if args[0] not in self.commands and near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def end(error: Exception) -> NoReturn:
    """End the process with one line; with D2KD_TRACEBACK set, the error passes."""
    from ..engine.launch import one_line_errors

    try:
        with one_line_errors(_HINT):
            raise error
    except Exception:
        if os.environ.get("D2KD_TRACEBACK"):
            raise
    reason = plain(str(error).strip().split("\n")[0], 1000)
    raise SystemExit(f"Unexpected {type(error).__name__}: {reason}\n{_HINT}") from error


def echo(text: object, err: bool = False) -> None:
    """Print one line, made `plain`: what it names may come from data."""
    click.echo(plain(text, _LONGEST_LINE), err=err)


def echo_lines(text: object) -> None:
    """Print a table or another text of several lines."""
    click.echo(plain_lines(text))


def _debug(_ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        os.environ["D2KD_TRACEBACK"] = "1"


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, is_eager=True,
    help="Show the traceback of an error.",
)  # fmt: skip


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="d2kd")
@debug_option
def main() -> None:
    """Knowledge distillation of object detectors on Detectron2.

    CONFIG is a yaml file, the folder of a run (its config.yaml and best checkpoint), a config of
    d2kd such as train/gfl_R_50_FPN_1x.yaml, or one of the model zoo such as
    COCO-Detection/retinanet_R_101_FPN_3x.yaml. KEY VALUE pairs behind it override its keys.
    """
    make_output_plain()
    ignore_warnings_of_dependencies()


def _complete_config(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> List[CompletionItem]:
    """Configs that d2kd ships or, where none begins so, files; bash shows one kind alone."""
    names = (str(path.relative_to(CONFIGS)) for path in sorted(CONFIGS.rglob("*.yaml")))
    shipped = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return shipped or [CompletionItem(incomplete, type="file")]


def config_argument(required: bool = True) -> Callable:
    """Decorator: the argument CONFIG, which a shell completes."""
    return click.argument("config", required=required, shell_complete=_complete_config)


_TEACHER_LAST = "The last checkpoint of a --teacher that is a run, not its best."
_MORE: Dict[str, Callable] = {
    "weights": with_last,
    "last": click.option("--last", is_flag=True, help=_TEACHER_LAST),
    "tokens": click.option("--tokens", is_flag=True, help=f"{TOKENS[0].upper()}{TOKENS[1:]}."),
}


def with_config(*names: str) -> Callable:
    """Decorator: the arguments CONFIG [KEY VALUE]..., and options of `OPTIONS` or `_MORE`."""

    def decorate(function: Callable) -> Callable:
        function = click.argument("options", nargs=-1, metavar="[KEY VALUE]...")(function)
        function = config_argument()(function)
        for name in reversed(names):
            if name in _MORE:
                function = _MORE[name](function)
                continue
            metavar, text = OPTIONS[name]
            function = click.option(
                f"--{name}", name.replace("-", "_") + "_", metavar=metavar, multiple=name != "data",
                default=None if name != "data" else "", help=text[0].upper() + text[1:] + ".",
            )(function)  # fmt: skip
        return debug_option(function)

    return decorate


SETTINGS = {"ignore_unknown_options": True}  # values such as -1


def namespace(config: str, options: Sequence[str], **given: Any) -> Namespace:
    """The arguments of a run as train_net.py has them.

    Raises:
        click.NoSuchOption: see `refuse_options`.
        ConfigError: `last`, and no teacher whose it is.
    """
    refuse_options([config, *options])
    from ..checkpoint import last_checkpoint
    from ..engine.command_line import argument_parser

    if given.pop("last", False):
        runs = given["teacher_"][len(given["teacher_weights_"]) :]
        given["teacher_weights_"] += tuple(map(last_checkpoint, runs))
        if not runs:
            raise ConfigError("--last: name a run with --teacher, without --teacher-weights.")
    args = argument_parser().parse_args([])
    args.config_file, args.opts = config, list(options)
    for name, value in given.items():
        name = "imports" if name == "import_" else name.removesuffix("_")
        setattr(args, name, list(value) if isinstance(value, tuple) else value)
    return args


def refuse_options(words: Sequence[str]) -> None:
    """CONFIG and KEY VALUE pairs are no options.

    Raises:
        click.NoSuchOption: one of them looks like one.
    """
    for option in words:
        if option.startswith("--"):
            known = [x for p in click.get_current_context().command.params for x in p.opts]
            near = difflib.get_close_matches(option, [x for x in known if x.startswith("--")])
            raise click.NoSuchOption(option, possibilities=near)


def run_weights(config: str, weights: str, err: bool = False) -> str:
    """`weights`, or the checkpoint of a run if CONFIG is its folder, said on stdout or `err`.

    Raises:
        ConfigError: neither.
    """
    from ..checkpoint import run_checkpoint

    if weights not in ("", LAST):
        return weights
    if os.path.isdir(config):
        path, text = run_checkpoint(config, weights == LAST)
        echo(f"weights: {text}", err)
        return path
    expect(config, "CONFIG", "config")
    raise ConfigError(
        f"CONFIG {config} is no run's folder, so it has no checkpoint: add --weights FILE."
    )
