"""The two pictures of the report: learning curves and detections."""

from pathlib import Path
from typing import Dict, List, Sequence

import matplotlib
import numpy as np
import torch
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from .training import Result

ENLARGE, MIN_SCORE = 3, 0.4
COLORS = matplotlib.colormaps["tab10"].colors


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


def _overlay(pixels: np.ndarray, boxes: np.ndarray, classes: Sequence[int], labels: List[str]):  # noqa: ANN202 (image)
    """Draw XYXY boxes, pixels of the small image, on an enlarged (H, W, 3) RGB image."""
    size = (pixels.shape[1] * ENLARGE, pixels.shape[0] * ENLARGE)
    large = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    visualizer = Visualizer(large, instance_mode=ColorMode.IMAGE)
    colors = [COLORS[c % len(COLORS)] for c in classes]
    visualizer.overlay_instances(
        boxes=boxes * ENLARGE, labels=labels, assigned_colors=colors, alpha=1
    )
    return visualizer.get_output().get_image()


def _draw_truth(pixels: np.ndarray, record: dict) -> np.ndarray:
    boxes = np.array([a["bbox"] for a in record["annotations"]], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = [a["category_id"] for a in record["annotations"]]
    return _overlay(pixels, boxes, classes, [str(c) for c in classes])


@torch.no_grad()
def _draw_found(pixels: np.ndarray, image: dict, model: nn.Module) -> np.ndarray:
    found = model([image])[0]["instances"].to("cpu")
    found = found[found.scores > MIN_SCORE]
    classes, scores = found.pred_classes.tolist(), found.scores.tolist()
    labels = [f"{c} {round(100 * s)}%" for c, s in zip(classes, scores, strict=True)]
    return _overlay(pixels, found.pred_boxes.tensor.numpy(), classes, labels)


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
        pixels = np.asarray(Image.open(record["file_name"]).convert("RGB"))
        found = [_draw_found(pixels, image, model) for model in models.values()]
        for axis, drawn in zip(row, [_draw_truth(pixels, record), *found], strict=True):
            axis.imshow(drawn)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    figure.savefig(path, dpi=120)
