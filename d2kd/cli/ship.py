"""`d2kd export`, `d2kd report`: using what was trained."""

import os
from pathlib import Path
from typing import Any, Tuple

import click

from ..errors import ConfigError
from .base import SETTINGS, debug_option, echo, namespace, run_weights, with_config
from .output import PAGE, Output, refuse_existing, with_overwrite

_SIDE = click.IntRange(1, 16_384)


@click.command(context_settings=SETTINGS)
@with_config("weights")
@click.option("--output", type=Output(folder=None), show_default="student.onnx",
              help="An .onnx, .xml or .pt2 file, or a folder for d2kd.")  # fmt: skip
@click.option("--format", "format_name", type=click.Choice(["onnx", "openvino", "pt2"]),
              help="Default: as --output ends.")  # fmt: skip
@click.option("--bundle", type=Output(), metavar="FOLDER",
              help="An .onnx file with all that is needed to run it on a device.")  # fmt: skip
@with_overwrite
@click.option(
    "--size", type=(_SIDE, _SIDE), metavar="H W", help="px; default: all test images fit."
)
@click.option("--no-nms", is_flag=True, help="All boxes and scores, before any is left out.")
@click.option("--score-threshold", type=click.FloatRange(0, 1), help="Default: the config's.")
@click.option("--masks", type=click.Choice(["raw", "pasted"]), default="raw", show_default=True,
              help="In their boxes, or as large as the image.")  # fmt: skip
@click.option("--dynamic-batch", is_flag=True, help="Take any number of images.")
@click.option("--dynamic-size", is_flag=True, help="Take any size that the detector pads to.")
@click.option("--fp16", is_flag=True, help="Weights in half precision; .onnx and .xml.")
@click.option("--int8", is_flag=True, help="Quantize to INT8; .onnx and .xml.")
@click.option("--calibrate", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Images for --int8; default: the training images.")  # fmt: skip
@click.option("--check-images", type=click.IntRange(0), default=4, show_default=True,
              help="Compare with PyTorch on that many images of DATASETS.TEST.")  # fmt: skip
def export(
    config: str,
    options: Tuple[str, ...],
    weights: str,
    overwrite: bool,
    output: Path | None,
    format_name: str | None,
    bundle: Path | None,
    **given: Any,
) -> None:
    """Write a student as ONNX, OpenVINO or .pt2, as a bundle for a device, or as a folder.

    The file needs neither d2kd nor Detectron2, and a bundle no PyTorch either. The folder is for
    d2kd: config, weights and classes.

    \b
    d2kd export output/distilled --output student.onnx
    d2kd export output/distilled --bundle student
    """
    from ..engine.command_line import resolve_config
    from ..export import export_device_bundle, export_student
    from ..export.formats import output_of

    if bundle and (output or format_name not in (None, "onnx")):
        raise ConfigError("--bundle FOLDER holds model.onnx: leave out --output and --format.")
    target = bundle or output_of(output, format_name)
    refuse_existing(target, overwrite, option="--bundle" if bundle else "--output")
    if target.suffix == ".xml":
        refuse_existing(target.with_suffix(".bin"), overwrite)
    cfg = resolve_config(namespace(config, options))
    run = Path(config) if os.path.isdir(config) else None
    write = export_device_bundle if bundle else export_student
    for line in write(cfg, run_weights(config, weights), run, output=target, **given):
        echo(line)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", type=Output(folder=False), default=Path("report.html"),
              show_default=True, help="One file that holds everything.")  # fmt: skip
@click.option("--images", type=click.IntRange(0), default=4, show_default=True,
              help="Test images to draw detections on: the worst and the best.")  # fmt: skip
@click.option("--last", is_flag=True, help="Look at the last checkpoints, not at the best.")
@debug_option
def report(runs: Tuple[Path, ...], output: Path, images: int, last: bool) -> None:
    """Write a page that compares the folders of RUNS.

    It has curves, AP, speed, pictures and commands. A page that is there is replaced.
    Folders that d2kd eval wrote for exported files stand in a table beside the runs.

    \b
    d2kd report output/student output/distilled
    d2kd report output/distilled output/eval/student.onnx
    """
    from ..report import write_report

    refuse_existing(output, own=PAGE)
    for text in write_report(runs, output, images, last):
        echo(text)
    echo(f"wrote {output}")
