"""A student as a folder for a device: the file, a program that runs it, and an example."""

import json
import shutil
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Optional, Tuple

import numpy as np
from detectron2.config import CfgNode
from PIL import Image

from ...engine.run_folder import holds_run
from ...errors import ConfigError
from ...file_io import write_atomically, write_text
from ...text import plain
from ..options import LIMITS
from ..student import export_student, test_images

HERE = Path(__file__).parent
MODEL, EXAMPLE, EXPECTED = "model.onnx", "example.png", "expected.json"
TOLERANCES = {"box": 1.0, "score": 0.02, "mask_iou": 0.95}
"""Of the example on another machine: px of the picture, scores in [0, 1], IoU of masks."""
_SOURCES = "run.py", "photo.py", "requirements.txt"
_PREPARING = "size", "resize", "channels", "pad_value", "dynamic", "multiple"
_TRIED = 100  # test images


def export_device_bundle(
    cfg: CfgNode, weights: str, run: Optional[Path] = None, *, output: Path, **options: Any
) -> Iterator[str]:
    """Write and check model.onnx as `export_student` does, and all that is needed to run it.

    That is numpy, Pillow and onnxruntime. The example is the first test image in which the file
    finds something; what `run.py` finds in it here is what it is expected to find elsewhere.

    Args:
        cfg, weights, run: see `export_student`.
        output: a folder; files in it that the bundle has too are replaced.
        options: see `export_student`.

    Raises:
        ConfigError: as of `export_student`, and where no example can be had.
        RunError: the file does not give the detector's detections.
    """
    if holds_run(output):
        raise ConfigError(f"--bundle {output} holds a run: name another folder.")
    if options.get("no_nms"):
        raise ConfigError("--bundle runs a file with NMS: leave out --no-nms.")
    if not cfg.DATASETS.TEST:
        raise ConfigError(
            "--bundle takes its example from DATASETS.TEST, which is empty: add the keys "
            "DATASETS.CUSTOM and DATASETS.TEST of a data set."
        )
    yield from export_student(cfg, weights, run, output=output / MODEL, **options)
    from . import run as runner  # which needs onnxruntime

    session, about = runner.load(output / MODEL)
    find = partial(runner.detect, session, about)
    image, threshold, found = _example(find, _pictures(cfg), runner.lowest_score(about))
    rows = runner.as_data(about, found)
    expected = {"image": EXAMPLE, "threshold": threshold, "tolerances": TOLERANCES}
    write_atomically(output / EXAMPLE, lambda part: image.save(part, "PNG"))
    _write_json(output / EXPECTED, {**expected, "detections": rows})
    _write_texts(output, about, runner.lowest_score(about))
    for name in _SOURCES:
        write_atomically(output / name, partial(shutil.copyfile, HERE / name))
    yield f"wrote {output}: {EXAMPLE} has {len(rows)} detections from a score of {threshold:g} on"
    yield f"try it there: python {output / 'run.py'} --check"


def _pictures(cfg: CfgNode) -> Iterator[Image.Image]:
    order = slice(None, None, -1 if cfg.INPUT.FORMAT == "BGR" else 1)
    for pixels in islice(test_images(cfg), _TRIED):
        yield Image.fromarray(np.ascontiguousarray(pixels[..., order]))


def _example(
    find: Any, images: Iterable[Image.Image], threshold: float
) -> Tuple[Image.Image, float, Tuple[Any, ...]]:
    """The first image with a score of `threshold`, or else the one with the highest score.

    It comes with the threshold that its detections have, and with these.
    """
    best, highest = None, 0.0
    for image in images:
        scores = find(image, 0.0)[1]
        if scores.max(initial=0) > highest:
            best, highest = image, float(scores.max())
        if highest >= threshold:
            break
    if best is None:
        raise ConfigError(
            f"The file finds nothing in the first {_TRIED} test images, so that there is no "
            "example: train longer, or lower --score-threshold."
        )
    threshold = min(threshold, 0.9 * highest)
    return best, threshold, find(best, threshold)


def _write_texts(folder: Path, about: Dict[str, Any], threshold: float) -> None:
    names = about["classes"] or range(about["num_classes"])
    write_text(folder / "labels.txt", "".join(f"{plain(name)}\n" for name in names))
    values = {"input": "image", "layout": "NCHW", "dtype": "float32", "scale": 1.0}
    values |= {key: about[key] for key in (*_PREPARING, *LIMITS) if key in about}
    _write_json(folder / "preprocessing.json", {**values, "shown_from": threshold})
    readme = (HERE / "README.md").read_text("utf-8").format(
        detector=about["detector"], classes=about["num_classes"], threshold=threshold,
        version=about["d2kd_version"])  # fmt: skip
    write_text(folder / "README.md", readme)


def _write_json(path: Path, data: Dict[str, Any]) -> None:
    write_text(path, json.dumps(data) + "\n")
