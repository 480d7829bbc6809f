"""Comparing an exported file with the detector that it was made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, List, Tuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from ..errors import RunError
from .options import Options, check_described, options_of, prepare
from .rules import rule_of
from .runner import Exported, fit_image, open_exported
from .write import build_graph

BOX_TOLERANCE = 0.01  # px
SCORE_TOLERANCE = 1e-4
Arrays = Tuple[np.ndarray, ...]


class NothingToCompare(RunError):
    """The detector finds nothing in the images that a file is checked on."""


@dataclass
class Comparison:
    """How an exported file compares with its detector.

    Attributes:
        images: how many were compared.
        detections: how many the detector found in them; without NMS, boxes.
        missing, added: detections, with NMS, that only the detector or only the file has.
        box_difference: largest difference of a coordinate, px, of detections that both have.
        score_difference: largest difference of a score likewise.
    """

    images: int = 0
    detections: int = 0
    missing: int = 0
    added: int = 0
    box_difference: float = 0.0
    score_difference: float = 0.0


def check_export(
    path: str | Path,
    detector: nn.Module,
    images: Iterable[np.ndarray],
    *,
    box_tolerance: float = BOX_TOLERANCE,
    score_tolerance: float = SCORE_TOLERANCE,
) -> Comparison:
    """Compare an exported file with PyTorch, on the same resized and padded images.

    With NMS the reference is the detector's own inference, its `forward`; without, all boxes and
    scores as the same steps give them in PyTorch. A detection is the same one if its class is, its
    coordinates and score are within the tolerances, and no other is paired with it.

    Args:
        path: a file of `export_onnx` or `export_pt2`.
        detector: what it was made of; its limits are taken from the file.
        images: each (h, w, 3) uint8 in the detector's channel order.
        box_tolerance: px.
        score_tolerance: of scores in [0, 1].

    Raises:
        RunError: detections differ; `NothingToCompare`: there was none.
        ConfigError: the file cannot be opened, or is not of such a detector.
    """
    exported = open_exported(path)
    options, detector = restore(exported, detector)
    graph, result = build_graph(detector, options), Comparison()
    for image in images:
        padded, _ = fit_image(image, exported.description)
        reference = run_detector(detector, padded) if options.nms else _run_graph(graph, padded)
        wanted, found = (_clip(x, options.size) for x in (reference, exported.run(padded)))
        _add_image(result, wanted, found, (box_tolerance, score_tolerance))
    _judge(result, Path(path), box_tolerance, score_tolerance)
    return result


def restore(exported: Exported, detector: nn.Module) -> Tuple[Options, nn.Module]:
    """The file's options, and a copy of the detector that has them.

    Raises:
        ConfigError: the file is of another detector.
    """
    rule_of(detector)
    check_described(exported.description, detector)
    options = options_of(exported.description)
    return options, prepare(detector, options)


@torch.no_grad()
def run_detector(detector: nn.Module, image: np.ndarray) -> Arrays:
    """The detector's own inference: boxes (n, 4) XYXY px, scores and classes of an image."""
    found = detector([{"image": torch.from_numpy(image[0])}])[0]["instances"]
    return tuple(x.numpy() for x in (found.pred_boxes.tensor, found.scores, found.pred_classes))


@torch.no_grad()
def _run_graph(graph: nn.Module, image: np.ndarray) -> Arrays:
    return tuple(x.numpy() for x in graph(torch.from_numpy(image)))


def _clip(found: Arrays, size: Tuple[int, int]) -> Arrays:
    """Boxes before NMS can be far outside, where a pixel is beyond float32."""
    return found[0].clip(0, (*size[::-1], *size[::-1])), *found[1:]


def _add_image(
    result: Comparison, wanted: Arrays, found: Arrays, tolerances: Tuple[float, float]
) -> None:
    result.images += 1
    result.detections += len(wanted[0])
    if len(wanted) == 3:
        rows, columns = pair_detections(wanted, found, *tolerances)
        result.missing += len(wanted[0]) - len(rows)
        result.added += len(found[0]) - len(columns)
        wanted, found = tuple(x[rows] for x in wanted), tuple(x[columns] for x in found)
    box, score = (
        float(np.abs(x - y).max(initial=0)) for x, y in zip(wanted[:2], found[:2], strict=True)
    )
    result.box_difference = max(result.box_difference, box)
    result.score_difference = max(result.score_difference, score)


def pair_detections(
    wanted: Arrays, found: Arrays, box_tolerance: float, score_tolerance: float
) -> List[np.ndarray]:
    """Indices of the same detections in two sets of boxes (n, 4), scores (n,), classes (n,)."""
    (boxes, scores, classes), (others, other_scores, other_classes) = wanted, found
    box = np.abs(boxes[:, None] - others).max(-1, initial=0) / box_tolerance
    score = np.abs(scores[:, None] - other_scores) / score_tolerance
    cost = np.maximum(box, score)
    same = (cost <= 1) & (classes[:, None] == other_classes)
    rows, columns = linear_sum_assignment(np.where(same, cost, 1e6))
    return [x[same[rows, columns]] for x in (rows, columns)]


def _judge(result: Comparison, path: Path, box_tolerance: float, score_tolerance: float) -> None:
    if result.detections == 0:
        raise NothingToCompare(
            f"{path}: nothing was compared, since the detector finds no object in "
            f"{result.images} images. Give images with objects, or export with a lower "
            "score_threshold."
        )
    far = result.box_difference > box_tolerance or result.score_difference > score_tolerance
    if result.missing or result.added or far:
        raise RunError(
            f"{path} differs from the detector. Of {result.detections} detections in "
            f"{result.images} images {result.missing} are missing, and {result.added} are added, "
            f"at tolerances of {box_tolerance} px and {score_tolerance}; others differ by up to "
            f"{result.box_difference:.2g} px and {result.score_difference:.2g}. Is it made of "
            "these weights?"
        )
