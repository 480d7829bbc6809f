"""`d2kd data`."""

import sys
from pathlib import Path

import click

from .base import debug_option, echo, echo_lines
from .output import Output


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--output", type=Output(), metavar="NEW",
              help="Write FOLDER there, from any layout, as --data takes it.")  # fmt: skip
@click.option("--val", type=click.FloatRange(0, 0.9, min_open=True), default=0.2, show_default=True,
              help="Share of train that --output makes val, where there is none.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of that.")
@click.option("--teacher", default="", metavar="CONFIG", help="Compare the classes with its.")
@click.option("--size", type=click.IntRange(1), metavar="PX",
              help="Shorter side in training: show the smallest boxes there.")  # fmt: skip
@click.option("--pictures", type=Output(folder=False), metavar="FILE.png",
              help="Draw some labelled images of each split.")  # fmt: skip
@click.option("--skip-images", is_flag=True, help="Do not open the image files.")
@debug_option
def data(
    folder: Path, output: Path | None, val: float, seed: int, teacher: str, size: int | None,
    pictures: Path | None, skip_images: bool,
) -> None:  # fmt: skip
    """Check a data set of yours, and list what is wrong with it.

    The exit code is 1 if something is. That AP is uncertain, or boxes are small, is said as well.
    """
    from tabulate import tabulate

    from ..data.class_names import similar
    from ..data.class_table import class_table
    from ..data.folder import UNDIVIDED, read_dataset_folder
    from ..data.listing import listed
    from ..data.prepare import prepare_folder
    from ..data.problems import compare_classes, compare_splits, find_notes, find_problems

    splits = prepare_folder(folder, output, val, seed) if output else read_dataset_folder(folder)
    count = 0
    for name, split in splits.items():
        echo(f"{name}: {split.json}, images in {split.images}")
        count += _print(find_problems(split, not skip_images, name == "train"))
        _print(find_notes(name, split, size))
    if not splits.keys() & {"val", "test"}:
        echo(f"no split val or test: {UNDIVIDED}")
    classes = next(iter(splits.values())).classes
    echo_lines(tabulate(class_table(splits, size), "keys", "simple"))
    _print(listed(similar(classes), "class names may be the same"))
    if pictures:
        from ..inspection.sheet import write_sheet

        write_sheet(splits, pictures)
        echo(f"wrote {pictures}")
    count += _print(compare_splits(splits))
    if teacher:
        count += _print(compare_classes(classes, _classes_of(teacher)))
    hint = " --output NEW writes labels without the images that cannot be used." * (not output)
    echo(f"{count} problem{'s' * (count > 1)}.{hint}" if count else "No problem found.")
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
    from ..teachers.classes import detector_classes

    cfg = load_config(config, ["MODEL.DEVICE", "cpu"])
    count = build_adapter(build_student(cfg)).spec().num_classes
    return detector_classes(config, cfg, cfg.MODEL.WEIGHTS, count) or count
