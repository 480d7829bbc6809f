"""`d2kd convert`: checkpoints and data sets of other layouts."""

import dataclasses
from pathlib import Path
from typing import Dict, Tuple

import click

from .base import debug_option, echo, echo_lines
from .output import Output, refuse_existing, with_overwrite


@click.group()
def convert() -> None:
    """Checkpoints and data sets from other toolboxes' formats."""


@convert.command()
@click.argument("source")
@click.argument("folder", type=Output())
@click.option("--name", default="", help="Of the files; default: the source's, without suffix.")
@click.option("--style", type=click.Choice(["caffe", "pytorch"]), default=None,
              help="Stride and pixel format; default: from the file's own config.")  # fmt: skip
@click.option("--config", default="", help="mmdetection's config, if the file has none.")
@click.option("--classes", type=int, help="For a GFLv2 that was trained without the extra row.")
@click.option("--prefix", default="", help="Of a detector's names, where there are several, such "
              "as teacher.; default: the student's, or none.")  # fmt: skip
@with_overwrite
@debug_option
def mmdet(
    source: str, folder: Path, name: str, style: str | None, config: str, classes: int | None,
    prefix: str, overwrite: bool,
) -> None:  # fmt: skip
    """Convert a checkpoint of mmdetection into FOLDER/NAME.pth and the FOLDER/NAME.yaml of it.

    RetinaNet, FCOS, ATSS, AutoAssign, DDOD, GFL, GFLv2, RepPoints, Faster and Mask R-CNN with
    ResNet or ResNeXt, also deformable, and FPN, from mmdetection 2 and 3. No code is run.
    """
    from ..convert import convert_mmdet

    for suffix in (".pth", ".yaml"):
        file = folder / f"{name or Path(source).stem}{suffix}"
        refuse_existing(file, overwrite, option="FOLDER/NAME")
    done = convert_mmdet(source, str(folder), name, style or "", classes, config, prefix)
    for key, value in dataclasses.asdict(done.architecture).items():
        echo(f"{key}: {value} (from the tensors)")
    for key, value in done.sources.items():
        echo(f"{key}: {value}")
    echo_lines(f"wrote {done.checkpoint}\nwrote {done.config}")


@convert.command()
@click.argument("source")
@click.argument("target", type=Output(folder=False))
@click.option("--half", is_flag=True, help="fp16, half the size; d2kd reads it as fp32.")
@with_overwrite
@debug_option
def weights(source: str, target: Path, half: bool, overwrite: bool) -> None:
    """Write the weights of a checkpoint, and nothing else of it, as TARGET.safetensors.

    SOURCE is a .pth, .pkl or .safetensors file, a URL or a detectron2:// address, maybe pinned.
    """
    from ..checkpoint.weights_file import convert_weights
    from ..file_io import sha256_of

    refuse_existing(target, overwrite, option="TARGET")
    convert_weights(source, target, half)
    echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB, sha256 {sha256_of(target)}")


@convert.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("output", type=Output())
@click.option("--classes", help="In order, with commas; default: those found, sorted.")
@click.option(
    "--splits",
    help="Lists of ImageSets/Main, also as val=NAME; default: those of train, val and test.",
)
@debug_option
def voc(folder: Path, output: Path, classes: str | None, splits: str | None) -> None:
    """Convert a data set in Pascal VOC's layout; images stay where they are."""
    from ..data.folder import check_index
    from ..data.voc import image_root, voc_to_coco

    check_index(output)
    paths = voc_to_coco(folder, output, _words(classes), _words(splits))
    _write(paths, output, image_root(folder))


@convert.command()
@click.argument("data_yaml", type=click.Path(path_type=Path))
@click.argument("output", type=Output())
@debug_option
def yolo(data_yaml: Path, output: Path) -> None:
    """Convert a data set in YOLO's layout; images stay where they are."""
    from ..data.folder import check_index
    from ..data.yolo import image_root, yolo_to_coco

    check_index(output)
    _write(yolo_to_coco(data_yaml, output), output, image_root(data_yaml))


def _words(text: str | None) -> Tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _write(paths: Dict[str, Path], output: Path, images: Path) -> None:
    from ..data.coco_json import summary
    from ..data.folder import write_index

    for path in paths.values():
        count, objects = summary(path)
        named = ", ".join(f"{n:,} {name}" for name, n in objects.items())
        echo(f"{path}: {count:,} images, {sum(objects.values()):,} boxes ({named})")
    echo(f"wrote {write_index(output, paths, images)}: use it with --data {output}")
