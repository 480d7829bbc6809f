"""The two pictures of the report: learning curves and detections."""

from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.visualizer import Visualizer
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from ..data.pixels import read_pixels
from .training import Result

ENLARGE, MIN_SCORE = 3, 0.4
RIGHT, WRONG = "lime", "red"


def draw_curves(teacher: Result, students: Sequence[Result], path: Path) -> None:
    """AP of every evaluation against training steps and against training minutes."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, label in zip(axes, ("training steps", "training minutes"), strict=True):
        axis.axhline(teacher.box["AP"], color="0.4", linestyle=":", label="teacher")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    for result in students:
        steps, seconds, ap = (list(column) for column in zip(*result.curve, strict=True))
        axes[0].plot(steps, ap, marker="o", label=result.name)
        axes[1].plot([s / 60 for s in seconds], ap, marker="o", label=result.name)
    axes[0].set_ylabel("AP on the test images")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def _overlay(
    pixels: np.ndarray, boxes: np.ndarray, labels: Sequence[str], colors: Sequence[str]
) -> np.ndarray:
    """Draw XYXY boxes, pixels of the small image, on an enlarged (H, W, 3) RGB image."""
    size = (pixels.shape[1] * ENLARGE, pixels.shape[0] * ENLARGE)
    large = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    visualizer = Visualizer(large)
    for box, label, color in zip(boxes * ENLARGE, labels, colors, strict=True):
        visualizer.draw_box(box, alpha=1, edge_color=color)
        corner = np.clip(box[:2], 0, (size[0] - 60, size[1] - 20))
        visualizer.draw_text(label, tuple(corner), color=color, horizontal_alignment="left")
    return visualizer.get_output().get_image()


def _truth(record: dict) -> Tuple[np.ndarray, List[int]]:
    """Boxes (G, 4), XYXY pixels, and classes of a record with COCO's XYWH boxes."""
    boxes = np.array([a["bbox"] for a in record["annotations"]], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, [a["category_id"] for a in record["annotations"]]


def _is_right(found: Instances, boxes: np.ndarray, classes: List[int]) -> List[bool]:
    """For each detection, whether a box of its class overlaps it with an IoU of 0.5 or more."""
    iou = pairwise_iou(found.pred_boxes, Boxes(torch.from_numpy(boxes)))  # (D, G)
    same = found.pred_classes[:, None] == torch.tensor(classes)
    return ((iou >= 0.5) & same).any(dim=1).tolist()


@torch.no_grad()
def _draw_found(pixels: np.ndarray, record: dict, image: dict, model: nn.Module) -> np.ndarray:
    """Draw a model's detections, the surest last, in the colour of right or wrong."""
    found = model([image])[0]["instances"].to("cpu")
    found = found[found.scores > MIN_SCORE]
    found = found[found.scores.argsort()]
    colors = [RIGHT if right else WRONG for right in _is_right(found, *_truth(record))]
    scored = zip(found.pred_classes.tolist(), found.scores.tolist(), strict=True)
    labels = [f"{digit} {score:.0%}" for digit, score in scored]
    return _overlay(pixels, found.pred_boxes.tensor.numpy(), labels, colors)


def draw_detections(
    records: Sequence[dict], images: Sequence[dict], models: Dict[str, nn.Module], path: Path
) -> None:
    """A row for each image: ground truth, then the detections of each model above `MIN_SCORE`.

    Args:
        records: Detectron2 records with COCO's XYWH boxes, pixels.
        images: the same as model inputs.
        models: column titles to detectors in evaluation mode.
        path: file to write.
    """
    titles = ["ground truth", *models]
    figure = Figure(figsize=(3.2 * len(titles), 3.3 * len(records)), layout="constrained")
    axes = figure.subplots(len(records), len(titles), squeeze=False)
    for row, record, image in zip(axes, records, images, strict=True):
        pixels = read_pixels(record["file_name"], "RGB")
        boxes, classes = _truth(record)
        truth = _overlay(pixels, boxes, [str(c) for c in classes], ["white"] * len(classes))
        found = [_draw_found(pixels, record, image, model) for model in models.values()]
        for axis, drawn in zip(row, [truth, *found], strict=True):
            axis.imshow(drawn)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    figure.savefig(path, dpi=120)
