"""`d2kd check`, `methods`, `detectors`, `maps`, `quality`: looking before and after training."""

import os
from pathlib import Path
from typing import Any, Tuple

import click

from .base import SETTINGS, debug_option, echo, echo_lines, namespace, run_weights, with_config
from .output import Output


@click.command(context_settings=SETTINGS)
@with_config("teacher", "teacher-weights", "distill", "data", "unlabelled", "import",
             "trust-config", "last", "tokens")  # fmt: skip
@click.option("--ranks", type=click.IntRange(2), metavar="N",
              help="As one of N ranks, which need not be here.")  # fmt: skip
def check(config: str, options: Tuple[str, ...], ranks: int | None, **given: Any) -> None:
    """Try two iterations of CONFIG, and say what is wrong.

    Nothing is kept. The arguments are those of `d2kd train`.

    \b
    d2kd check train/gfl_R_50_FPN_1x.yaml --ranks 8
    """
    from ..data import register_custom_datasets
    from ..engine.command_line import resolve_config
    from ..inspection.checkup import check_run
    from ..inspection.ranks import check_ranks

    cfg = resolve_config(namespace(config, options, **given), trains=True)
    register_custom_datasets(cfg)
    for text in check_ranks(cfg, ranks) if ranks else check_run(cfg):
        echo_lines(text + "\n")


@click.command()
@click.argument("name", required=False)
@click.option("--teachers", is_flag=True, help="Count the students that fit each kind of teacher.")
@debug_option
def methods(name: str | None, teachers: bool) -> None:
    """List what each method can distil; with NAME, its keys."""
    from ..inspection.combinations import describe_method, method_matrix, teacher_matrix

    if name and teachers:
        raise click.UsageError("NAME and --teachers exclude each other.")
    table = teacher_matrix if teachers else method_matrix
    echo_lines(describe_method(name) if name else table())


@click.command()
@click.argument("name", required=False, default="")
@click.option("--student", default="", metavar="CONFIG", help="Methods for this student.")
@debug_option
def teachers(name: str, student: str) -> None:
    """List published teachers; with NAME, or a part of names, what they teach.

    \b
    d2kd teachers torchvision: --student own/student.yaml
    """
    from ..inspection.teachers import teacher_table

    echo_lines(teacher_table(name, student))


@click.command()
@debug_option
def detectors() -> None:
    """List the detectors that d2kd knows, and their configs.

    Each can be a student or a teacher.
    """
    from ..inspection.combinations import detector_table

    echo_lines(detector_table())


@click.command(context_settings=SETTINGS)
@with_config("data", "import")
@click.option("--weights", multiple=True, metavar="FILE",
              help="Of the student; several times for pictures before and after. "
              "Default: the run's last checkpoint, or MODEL.WEIGHTS.")  # fmt: skip
@click.option("--output", type=Output(), default=Path("maps"),
              show_default=True, help="Folder of the PNG files.")  # fmt: skip
@click.option("--images", type=click.IntRange(1), default=2, show_default=True,
              help="The first images of DATASETS.TEST[0].")  # fmt: skip
def maps(
    config: str, options: Tuple[str, ...], weights: Tuple[str, ...], output: Path, images: int,
    **given: Any,
) -> None:  # fmt: skip
    """Draw what the methods of CONFIG look at, on test images.

    Weights, masks, differences: rows are maps, columns are all levels together and each level.

    \b
    d2kd maps output/distilled --output maps
    """
    from ..checkpoint import last_checkpoint
    from ..engine.command_line import resolve_config
    from ..inspection.maps import write_maps

    cfg = resolve_config(namespace(config, options, **given))
    last = [last_checkpoint(config)] if os.path.isdir(config) else []
    for path in write_maps(cfg, weights or last, output, images):
        echo(path)


@click.command(context_settings=SETTINGS)
@with_config("data", "import", "weights")
@click.option("--output", type=Output(), default=Path("quality"),
              show_default=True, help="Folder of quality.json and quality.png.")  # fmt: skip
def quality(
    config: str, options: Tuple[str, ...], weights: str, output: Path, **given: Any
) -> None:
    """Measure how well predicted quality tells the IoU of a box.

    Correlation, calibration and a plot, for plain or distilled RetinaNet, FCOS, ATSS, AutoAssign,
    DDOD, GFL and RepPoints.

    \b
    d2kd quality output/distilled
    """
    from ..engine.command_line import resolve_config
    from ..inspection.quality import measure_quality

    cfg = resolve_config(namespace(config, options, **given))
    weights = weights or ("" if os.path.isdir(config) else cfg.MODEL.WEIGHTS)
    echo_lines(measure_quality(cfg, run_weights(config, weights), output))
