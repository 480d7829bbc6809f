"""Comparing an exported file with the detector that it was made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, List, Tuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from ..errors import RunError
from .base import Graph
from .description import check_described, options_of
from .kinds import build_graph, graph_of, prepare
from .runner import Exported, fit_image, open_exported

BOX_TOLERANCE = 0.01  # px
SCORE_TOLERANCE = 1e-4
MASK_TOLERANCE = 1e-3  # of a probability or, pasted, of the image's pixels
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
        mask_difference: of a mask likewise: of its probabilities or, where masks are pasted, the
            share of the image's pixels that differ.
    """

    images: int = 0
    detections: int = 0
    missing: int = 0
    added: int = 0
    box_difference: float = 0.0
    score_difference: float = 0.0
    mask_difference: float = 0.0


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
    coordinates and score are within the tolerances, and no other is paired with it. Where the batch
    is dynamic, each image is in one with its three mirror images.

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
    result = compare_export(exported, detector, images, box_tolerance, score_tolerance)
    _judge(result, Path(path), box_tolerance, score_tolerance)
    return result


def compare_export(
    exported: Exported,
    detector: nn.Module,
    images: Iterable[np.ndarray],
    box_tolerance: float,
    score_tolerance: float,
) -> Comparison:
    """The comparison of `check_export`, which does not judge it."""
    graph, result = restore(exported, detector), Comparison()
    for image in images:
        padded, _ = fit_image(image, exported.description)
        if graph.options.dynamic_batch:
            padded = np.concatenate([padded[:, :, ::y, ::x] for x in (1, -1) for y in (1, -1)])
        for one, found in zip(padded, exported.of_each(padded), strict=True):
            both = run_reference(graph, one[None]), found
            wanted, given = (_clip(x, padded.shape[2:]) for x in both)
            _add_image(result, wanted, given, (box_tolerance, score_tolerance))
    return result


def restore(exported: Exported, detector: nn.Module) -> Graph:
    """The graph in PyTorch, of a copy of the detector that has the file's limits.

    Raises:
        ConfigError: the file is of another detector.
    """
    graph_of(detector)
    check_described(exported.description, detector)
    options = options_of(exported.description)
    return build_graph(prepare(detector, options), options)


@torch.no_grad()
def run_reference(graph: Graph, image: np.ndarray) -> Arrays:
    """What a file must give for an image (1, 3, H, W), see `Graph.reference`."""
    return tuple(x.numpy() for x in graph.reference(torch.from_numpy(image)))


def _clip(found: Arrays, size: Tuple[int, ...]) -> Arrays:
    """Boxes before NMS can be far outside, where a pixel is beyond float32."""
    return found[0].clip(0, (*size[::-1], *size[::-1])), *found[1:]


def _add_image(
    result: Comparison, wanted: Arrays, found: Arrays, tolerances: Tuple[float, float]
) -> None:
    result.images += 1
    result.detections += len(wanted[0])
    if len(wanted) > 2:
        rows, columns = pair_detections(wanted[:3], found[:3], *tolerances)
        result.missing += len(wanted[0]) - len(rows)
        result.added += len(found[0]) - len(columns)
        wanted, found = tuple(x[rows] for x in wanted), tuple(x[columns] for x in found)
    boxes, scores = (np.abs(x - y) for x, y in zip(wanted[:2], found[:2], strict=True))
    if len(wanted) == 2:
        far = (boxes.max(1) > tolerances[0]) | (scores.max(1) > tolerances[1])
        result.missing += int(far.sum())
    box, score = (float(x.max(initial=0)) for x in (boxes, scores))
    result.box_difference = max(result.box_difference, box)
    result.score_difference = max(result.score_difference, score)
    for mask, other in zip(*(x[3:] for x in (wanted, found)), strict=True):
        result.mask_difference = max(result.mask_difference, _mask_difference(mask, other))


def _mask_difference(masks: np.ndarray, others: np.ndarray) -> float:
    different = np.abs(masks.astype(np.float32) - others)
    pasted = masks.dtype == bool
    return float((different.mean((1, 2)) if pasted else different).max(initial=0))


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
    far = (
        result.box_difference > box_tolerance
        or result.score_difference > score_tolerance
        or result.mask_difference > MASK_TOLERANCE
    )
    if result.missing or result.added or far:
        raise RunError(
            f"{path} differs from the detector. Of {result.detections} detections in "
            f"{result.images} images {result.missing} are missing, and {result.added} are added, "
            f"at tolerances of {box_tolerance} px and {score_tolerance}; others differ by up to "
            f"{result.box_difference:.2g} px and {result.score_difference:.2g}, masks by "
            f"{result.mask_difference:.2g}. Is it made of these weights?"
        )
