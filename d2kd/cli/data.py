"""`d2kd data`."""

import sys
from pathlib import Path

import click

from .base import debug_option, echo


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--teacher", default="", metavar="CONFIG", help="Compare the classes with its.")
@click.option("--size", type=click.IntRange(1), metavar="PX",
              help="Shorter side in training: count the boxes below 8 px there.")  # fmt: skip
@click.option("--skip-images", is_flag=True, help="Do not open the image files.")
@debug_option
def data(folder: Path, teacher: str, size: int | None, skip_images: bool) -> None:
    """Check a data set of yours, and list what is wrong with it.

    The exit code is 1 if something is. That AP is uncertain, or boxes are small, is said as well.
    """
    from ..data.folder import read_dataset_folder
    from ..data.problems import compare_classes, compare_splits, find_notes, find_problems

    splits, count = read_dataset_folder(folder), 0
    for name, split in splits.items():
        echo(f"{name}: {split.json}, images in {split.images}")
        count += _print(find_problems(split, not skip_images))
        _print(find_notes(name, split, size))
    classes = next(iter(splits.values())).classes
    echo(f"{len(classes)} classes: {', '.join(classes)}")
    count += _print(compare_splits(splits))
    if teacher:
        count += _print(compare_classes(classes, _classes_of(teacher)))
    echo(f"{count} problems." if count else "No problem found.")
    sys.exit(count > 0)


def _print(problems: list[str]) -> int:
    for problem in problems:
        echo(f"  - {problem}")
    return len(problems)


def _classes_of(config: str) -> int | list[str]:
    """A teacher's class names, if its run or its training data tells them, or else their number."""
    from ..adapters import build_adapter
    from ..config.loading import load_config
    from ..inference.predict import build_student
    from ..teachers.classes import teacher_classes

    cfg = load_config(config, ["MODEL.DEVICE", "cpu"])
    count = build_adapter(build_student(cfg)).spec().num_classes
    return teacher_classes(config, cfg, cfg.MODEL.WEIGHTS, count) or count
