"""`d2kd predict`."""

import math
import sys
from pathlib import Path
from typing import Any, List, Tuple

import click

from ..errors import ConfigError
from .base import SETTINGS, config_argument, debug_option, echo, namespace, run_weights
from .output import Output
from .weights import with_last

_SHOWN = 20


@click.command(context_settings=SETTINGS)
@config_argument()
@click.argument("source", type=click.Path(path_type=Path))
@with_last
@click.option("--output", type=Output(), default=Path("predictions"),
              show_default=True, help="Folder for the drawn images or videos.")  # fmt: skip
@click.option("--threshold", type=click.FloatRange(0, 1),
              help="Lowest score; default: of the best F1 in validation, or 0.5.")  # fmt: skip
@click.option("--coco", type=Output(folder=False), metavar="FILE",
              help="Also write them as COCO json: pseudo-labels to train on.")  # fmt: skip
@click.argument("options", nargs=-1, metavar="[KEY VALUE]...")
@debug_option
def predict(
    config: str, source: Path, weights: str, output: Path,
    threshold: float | None, coco: Path | None, options: Tuple[str, ...],
) -> None:  # fmt: skip
    """Detect objects in SOURCE: an image, a folder, or a video.

    What cannot be read is left out and named at the end, with exit code 1.

    \b
    d2kd predict output/distilled photos --threshold 0.6
    """
    from ..inference.video import VIDEOS

    detector = (config, options, weights, threshold)
    if source.suffix.lower() in VIDEOS and source.is_file():
        if coco:
            raise ConfigError("--coco takes images, and SOURCE is a video: leave --coco out.")
        _video(detector, source, output)
    else:
        _images(detector, source, output, coco)


def _images(detector: Tuple[Any, ...], source: Path, output: Path, coco: Path | None) -> None:
    from ..inference import predict as library
    from ..inference.drawings import drawing_paths
    from ..inference.pseudo_labels import check_target, to_coco, write_labels

    files, left_out = library.find_images(source)
    root = source if source.is_dir() else source.parent
    targets = dict(zip(files, drawing_paths(files, root, output), strict=True))
    if coco:
        check_target(coco)
    for line in left_out:
        echo(line)
    predictor, classes, threshold = _load(*detector)
    found, failed = [], []
    for x in library.predict_images(predictor, targets, root, threshold, classes):
        if isinstance(x, ValueError):
            failed.append(str(x))
        else:
            found.append(x)
            echo(f"{root / x.name}: {len(x.boxes)} objects")
    if coco:
        data = to_coco(found, library.category_names(predictor, classes))
        write_labels(coco, data)
        echo(f"wrote {coco}: {len(data['annotations']):,} detections")
    echo(f"wrote {len(found)} images to {output}")
    if not any(x.boxes for x in found):
        _say_highest(predictor, threshold)
    _end(failed)


def _video(detector: Tuple[Any, ...], source: Path, output: Path) -> None:
    from ..inference import predict as library
    from ..inference.video import video_path

    target = video_path(source, output)
    predictor, classes, threshold = _load(*detector)
    count, stated = library.predict_video(predictor, source, target, threshold, classes)
    echo(f"{target}: {count} frames")
    _say_highest(predictor, threshold)
    if count < stated:
        echo(f"{source} states {stated} frames, maybe an estimate; {count} can be read")


def _say_highest(predictor: Any, threshold: float) -> None:
    """Where no object was found: what a lower threshold would show."""
    if 0 < predictor.highest < threshold:
        highest = math.floor(1000 * predictor.highest) / 1000
        echo(
            f"no score reaches the threshold of {threshold:.3f}; the highest is {highest:.3f}: "
            "give a lower --threshold"
        )


def _load(
    config: str, options: Tuple[str, ...], weights: str, threshold: float | None
) -> Tuple[Any, List[str], float]:
    """The predictor, the names of its classes and the lowest score."""
    from ..engine.command_line import resolve_config
    from ..evaluation.best_f1 import score_threshold
    from ..inference import predict as library

    cfg = resolve_config(namespace(config, options))
    weights = run_weights(config, weights)
    predictor = library.Predictor(cfg, weights)
    classes = library.class_names(config, cfg, weights, predictor.detector)
    if threshold is None:
        threshold, text = score_threshold(weights)
        echo(text)
    return predictor, classes, threshold


def _end(failed: List[str]) -> None:
    """Name what could not be read, and end with 1 if there is any."""
    for line in failed[:_SHOWN]:
        echo(line, err=True)
    if failed[_SHOWN:]:
        echo(f"... and {len(failed) - _SHOWN:,} more", err=True)
    sys.exit(1 if failed else 0)
