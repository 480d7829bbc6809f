"""The two pictures of the report: learning curves and detections."""

from pathlib import Path
from typing import Dict, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from matplotlib.figure import Figure
from torch import nn

from ..evaluation.panels import panels
from ..inference.detections import detect
from ..inference.distillation_maps import picture_batch
from .training import Result

PICTURED = 4  # test images


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


def draw_detections(cfg: CfgNode, models: Dict[str, nn.Module], path: Path) -> None:
    """A row for each of the first test images: ground truth, then what each model detects.

    Args:
        cfg: the students'.
        models: names to detectors in evaluation mode.
        path: file to write.
    """
    classes = MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes
    batch, columns = picture_batch(cfg, PICTURED), len(models) + 1
    figure = Figure(figsize=(3.2 * columns, 3.5 * len(batch)), layout="constrained")
    rows = figure.subplots(len(batch), columns, squeeze=False)
    for row, record in zip(rows, batch, strict=True):
        found = {name: detect(x, record["image"]) for name, x in models.items()}
        shown = panels(record, cfg.INPUT.FORMAT, found, classes)
        for axis, x in zip(row, shown, strict=True):
            axis.imshow(x.image)
            axis.set_axis_off()
            axis.set_title(f"{x.name}\n{x.counts}", fontsize=9)
    figure.savefig(path, dpi=120)
