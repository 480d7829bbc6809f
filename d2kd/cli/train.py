"""`d2kd train` and `d2kd eval`."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any, Sequence, Tuple

import click

from ..engine.options import RESUME_ANYWAY
from ..errors import ConfigError
from ..text import file_name
from .base import SETTINGS, echo_lines, namespace, run_weights, with_config
from .closing import (
    close_evaluation,
    close_file,
    close_published,
    close_training,
    console_of,
    with_console,
)
from .weights import LAST


@click.command(context_settings=SETTINGS)
@with_config("teacher", "teacher-weights", "distill", "data", "unlabelled", "import",
             "trust-config", "last", "tokens")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in OUTPUT_DIR.")
@click.option("--resume-anyway", is_flag=True, help=RESUME_ANYWAY + ".")
@click.option("--output", metavar="FOLDER", help="The same as OUTPUT_DIR FOLDER.")
@click.option("--num-gpus", default=1, show_default=True, help="Ranks on this machine.")
@click.option("--num-machines", default=1, show_default=True)
@click.option("--machine-rank", default=0, show_default=True)
@click.option("--dist-url", default="auto", show_default=True, help="tcp://HOST:PORT of rank 0.")
@click.option("--profile", is_flag=True,
              help="Run a few steps, print what their parts take, and stop.")  # fmt: skip
@with_console
def train(
    config: str, options: Tuple[str, ...], output: str | None, quiet: bool, as_json: bool,
    profile: bool, **given: Any,
) -> None:  # fmt: skip
    """Train a detector; with --teacher, distil it; with --tokens, learn what MasKD needs of it.

    \b
    d2kd train train/gfl_R_18_FPN_1x.yaml --data cells --output output/student
    d2kd train train/gfl_R_18_FPN_1x.yaml --data cells --output output/distilled \\
        --teacher output/teacher --distill PKD,BCKD

    OUTPUT_DIR/config.yaml is the whole config: `d2kd train OUTPUT_DIR --output
    FOLDER` repeats the run. No run overwrites another, or what it reads.
    """
    args = namespace(config, options, console=console_of(quiet, as_json), **given)
    args.opts += ["OUTPUT_DIR", output] if output else []
    if profile:
        return _profile(args)
    _launch(args)
    if args.machine_rank == 0:
        close_training(args)


def _profile(args: Namespace) -> None:
    from ..data import register_custom_datasets
    from ..engine.command_line import resolve_config
    from ..inspection.profile import profile_run

    if args.resume or args.resume_anyway or args.num_gpus * args.num_machines > 1:
        raise ConfigError("--profile is of a new run on one rank: leave --resume and --num-* out.")
    cfg = resolve_config(args, trains=True)
    register_custom_datasets(cfg)
    for text in profile_run(cfg):
        echo_lines(text)


@click.command("eval", context_settings=SETTINGS)
@with_config("data", "import", "weights")
@click.option("--output", metavar="FOLDER", help="For results.json; default: CONFIG/eval.")
@click.option("--num-gpus", default=1, show_default=True, help="Ranks on this machine.")
@with_console
def evaluate(
    config: str, options: Tuple[str, ...], weights: str, output: str | None, quiet: bool,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Evaluate a checkpoint as a plain detector on DATASETS.TEST.

    \b
    d2kd eval output/distilled
    d2kd eval torchvision:fasterrcnn_resnet50_fpn_v2 --data cells

    A published detector (d2kd teachers) is measured in the classes that it has
    in common with the data, by name, and four pictures are drawn. Of a file of
    d2kd export, latency and size are measured as well:

    \b
    d2kd eval student.onnx --data cells
    """
    args = namespace(config, options, eval_only=True, console=console_of(quiet, as_json), **given)
    typed = options[::2]
    folder = _typed(args.opts, "OUTPUT_DIR") or Path("output", "eval", file_name(config))
    target = Path(output or folder).expanduser()
    if Path(config).suffix in (".onnx", ".pt2", ".xml"):
        from ..export import evaluate_file

        if weights:
            raise ConfigError(f"{config} holds its weights: leave --weights and --last out.")
        results = evaluate_file(Path(config), args, target)
        return close_file(target, results, args.console)
    if (published := _published(config, weights, args)) and args.num_gpus == 1:
        from ..engine.published import evaluate_published

        evaluate_published(args, published, target)
        return close_published(target, args.console)
    if not output and os.path.isdir(config) and "OUTPUT_DIR" not in typed:
        output = os.path.join(config, "eval")
    if weights or "MODEL.WEIGHTS" not in typed:
        args.opts += ["MODEL.WEIGHTS", run_weights(config, weights, as_json)]
    args.opts += ["OUTPUT_DIR", output] if output else []
    _launch(args)
    close_evaluation(args)


def _published(config: str, weights: str, args: Namespace) -> str:
    """The checkpoint of a published detector by name; "" for other configs.

    One of the model zoo with weights of somebody else's is a config like any other.
    """
    from ..config.sources.find import SOURCES, published_weights

    if os.path.exists(config):
        return ""
    if weights == LAST:
        raise ConfigError(f"--last: {config} is no run.")
    own = weights or _typed(args.opts, "MODEL.WEIGHTS")
    if own:
        return own if config.partition(":")[0] in SOURCES else ""
    return published_weights(config)


def _typed(options: Sequence[str], key: str) -> str:
    """The last value of a key among KEY VALUE pairs; "" without one."""
    return dict(zip(options[::2], options[1::2], strict=False)).get(key, "")


def _launch(args: Namespace) -> None:
    from ..engine.launch import launch
    from ..engine.main import main

    launch(main, args)
