"""Export of a trained student, from its config and checkpoint to a checked file."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from detectron2.config import CfgNode
from torch import nn

from ..data import load_dataset, register_custom_datasets
from ..errors import ConfigError, MissingFileError
from ..evaluation.best_f1 import score_threshold as shown_from
from ..evaluation.best_f1 import stored_best_f1
from ..inference.predict import Predictor, class_names
from ..quantize import quantized_convolutions, rounds
from .bundle import write_bundle
from .calibration import calibration_images, read_images
from .check import Comparison, NothingToCompare, check_export, compare_export
from .formats import SUFFIXES, check_int8, export_int8
from .int8 import table_of
from .kinds import graph_of, padded_size
from .measure import measure_export
from .runner import open_exported
from .size import about_fit, largest, resized, size_of
from .write import require

_OF_FOLDERS = {"nms": True, "score_threshold": None, "masks": "raw", "dynamic_batch": False,
               "dynamic_size": False, "fp16": False, "size": None, "int8": False}  # fmt: skip
_HALF, _QUANTIZED = (1.0, 0.01), (4.0, 0.1)  # px and score


def export_student(
    cfg: CfgNode,
    weights: str,
    run: Optional[Path] = None,
    *,
    output: Path,
    size: Optional[Tuple[int, int]] = None,
    no_nms: bool = False,
    score_threshold: Optional[float] = None,
    masks: str = "raw",
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    fp16: bool = False,
    int8: bool = False,
    calibrate: Optional[Path] = None,
    check_images: int = 4,
) -> Iterator[str]:
    """Write a student, compare the file with PyTorch, time both, and say so line by line.

    Args:
        cfg: of the student, plain or distilled.
        weights: its checkpoint.
        run: folder of the run, for class names that are not known beside `weights`, or None.
        output: an .onnx, .xml or .pt2 file, or a folder, which any detector fits into; it is made,
            if its name has no suffix.
        size: height and width, px, enlarged to what the detector pads to; None for the smallest
            that all test images fit into, as INPUT.MIN_SIZE_TEST resizes them.
        no_nms: write all boxes and scores.
        score_threshold: in [0, 1]; None for the config's.
        masks, dynamic_batch, dynamic_size, fp16: see `Options`.
        int8: quantize it, see `export_int8`.
        calibrate: folder of images for that; None for those of DATASETS.TRAIN.
        check_images: first images of DATASETS.TEST to compare; 0 for none.

    Raises:
        ConfigError: the config, the checkpoint, the detector or an option cannot work.
        RunError: the file does not give the detector's detections.
    """
    given = {"nms": not no_nms, "score_threshold": score_threshold, "masks": masks, "fp16": fp16,
             "dynamic_batch": dynamic_batch, "dynamic_size": dynamic_size}  # fmt: skip
    if calibrate and not int8:
        raise ConfigError("--calibrate is for --int8: add it.")
    if not output.suffix or output.is_dir():
        _check_folder(output, {**given, "size": size, "int8": int8})
        yield from write_bundle(cfg, weights, run, output)
        return
    write = _writer(output)
    count = max(check_images, size is None)
    with suppress(*(() if count else (MissingFileError,))):
        register_custom_datasets(cfg)
    predictor = Predictor(cfg, weights)
    detector = predictor.detector
    graph_of(detector)
    if int8:
        check_int8(detector, output, fp16)
    records = _test_records(cfg) if count else []
    images = list(_images(cfg, records[:count]))
    sizes = resized(cfg, map(size_of, records))
    size = padded_size(detector, size or largest(sizes))
    output.parent.mkdir(parents=True, exist_ok=True)
    if int8:
        write = partial(export_int8, calibration=calibration_images(cfg, calibrate))
    description = write(
        detector,
        output,
        size=size,
        input_format=predictor.format,
        resize=(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
        class_names=class_names(str(run or ""), cfg, weights, detector),
        best_f1=stored_best_f1(weights),
        **given,
    )
    nms = "without NMS" if no_nms else "with NMS"
    yield f"wrote {output}: {type(detector).__name__} {nms}, {size[0]}x{size[1]} px"
    yield from [about_fit(size, sizes)] if sizes and not dynamic_size else ()
    yield f"metadata: {shown_from(weights)[1]}"
    yield from table_of(description["int8"]) if int8 else ()
    if rounds(detector):
        yield f"INT8 as it was trained: {len(quantized_convolutions(detector))} convolutions"
    if check_images:
        near = _QUANTIZED if int8 or rounds(detector) else _HALF if fp16 else None
        yield from _compared(output, detector, images[:check_images], near)


def _check_folder(output: Path, given: Mapping[str, Any]) -> None:
    if given != _OF_FOLDERS:
        raise ConfigError(
            f"--output {output} is a folder, which has the detector's own size, NMS, score "
            "threshold, masks and precision: end the name with .onnx, .xml or .pt2."
        )


def _writer(output: Path) -> Callable[..., Dict[str, Any]]:
    if output.suffix not in SUFFIXES:
        ends = ", ".join(SUFFIXES)
        raise ConfigError(
            f"--output {output}: end the name with one of {ends}; with another dot in its name it "
            "can be a folder only if that is there already."
        )
    require(*SUFFIXES[output.suffix].packages)
    return SUFFIXES[output.suffix].write


def _compared(
    output: Path,
    detector: nn.Module,
    images: Sequence[np.ndarray],
    near: Optional[Tuple[float, float]],
) -> Iterator[str]:
    try:
        yield _verify(output, detector, images, near)
    except NothingToCompare as error:
        yield f"not checked. {error}"
        return
    cost = measure_export(output, detector, images[0])
    yield (
        f"{cost.size_mb:.1f} MB; {cost.exported_ms:.1f} ms per image on one CPU thread, "
        f"PyTorch {cost.torch_ms:.1f} ms"
    )


def _verify(
    output: Path,
    detector: nn.Module,
    images: Sequence[np.ndarray],
    near: Optional[Tuple[float, float]],
) -> str:
    """Compare with PyTorch; rounded files are not judged, since some scores cross a threshold."""
    if near is None:
        found = check_export(output, detector, images)
        return (
            f"checked on {found.images} images: the same {found.detections:,} boxes as PyTorch, "
            f"within {found.box_difference:.1g} px and scores within {found.score_difference:.1g}"
        )
    found = compare_export(open_exported(output), detector, images, *near)
    if not found.detections:
        raise NothingToCompare(f"{output}: the detector finds nothing in {found.images} images.")
    return about_near(found, near) + f"; measure its AP: d2kd eval {output} --data FOLDER"


def about_near(found: Comparison, near: Tuple[float, float]) -> str:
    """How many of PyTorch's boxes a file has within tolerances of px and scores, and others."""
    others = f", and {found.added:,} others" if found.added else ""
    return (
        f"compared on {found.images} images: {found.detections - found.missing:,} of PyTorch's "
        f"{found.detections:,} boxes within {near[0]:g} px and scores within {near[1]:g}{others}"
    )


def _test_records(cfg: CfgNode) -> List[Dict[str, Any]]:
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: give --size H W and --check-images 0.")
    return [x for name in cfg.DATASETS.TEST for x in load_dataset(name, "DATASETS.TEST")]


def _images(cfg: CfgNode, records: Sequence[Dict[str, Any]]) -> Iterator[np.ndarray]:
    return read_images((x["file_name"] for x in records), cfg.INPUT.FORMAT, "DATASETS.TEST")


def test_images(cfg: CfgNode) -> Iterator[np.ndarray]:
    """Images of DATASETS.TEST, (h, w, 3) uint8 in the order of INPUT.FORMAT."""
    return _images(cfg, _test_records(cfg))
