"""What the heads compare: their maps over the image, level by level."""

from typing import Dict, List

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ..adapters import STUDENT_ONLY, DetectorOutput
from ..data import labelled_test_data
from ..distiller import Distiller
from ..heads import DistillationHead
from .detections import evaluating, rgb_of

Maps = Dict[str, Dict[int, Tensor]]


@torch.no_grad()
def distillation_maps(distiller: Distiller, batch: List[dict]) -> List[Maps]:
    """What `DistillationHead.maps` of every head gives for a batch, in evaluation mode.

    Args:
        distiller: student, teachers and heads; left in the mode it was in.
        batch: dicts with "image" (3, H, W) and "instances" with gt_boxes and gt_classes.

    Returns:
        List[Maps]: per image "<Head>: <name>" -> stride -> (rows, columns) on the CPU, without the
        cells of batch padding. No head's losses are computed and nothing is updated.
    """
    with evaluating(distiller):
        return _maps(distiller, batch)


def _maps(distiller: Distiller, batch: List[dict]) -> List[Maps]:
    images = distiller.adapter.preprocess(batch, distiller.divisor)
    student = distiller.adapter(images, None, distiller.need - STUDENT_ONLY)
    student.gt = [x["instances"].to(distiller.device) for x in batch]
    found: List[Maps] = [{} for _ in batch]
    heads = {k: x for k, x in distiller.heads.items() if isinstance(x, DistillationHead)}
    for name, head in heads.items():
        need, indices = head.reads_of_teacher(), _asked(distiller, name, batch)
        asked = batch, distiller.divisor, student, need
        outputs = {i: distiller.panel.ask(i, *asked) for i in indices}
        nothing = student, DetectorOutput(images, student.adapter, {})
        seen = distiller.seen_by(name, student, outputs) if outputs else nothing
        for label, levels in head.maps(*seen).items():
            for image, size in enumerate(images.image_sizes):
                found[image][f"{name}: {label}"] = {
                    s: x[image, : -(-size[0] // s), : -(-size[1] // s)].float().cpu()
                    for s, x in levels.items()
                }
    return found


def _asked(distiller: Distiller, name: str, batch: List[dict]) -> List[int]:
    """Indices of a head's teachers; no stored detections where no image brings any."""
    networks = len(distiller.teachers)
    there = any("set" in x for x in batch)
    return [i for i in distiller.panel.teachers_of[name] if i < networks or there]


def draw_maps(image: np.ndarray, boxes: np.ndarray, maps: Maps) -> Figure:
    """One row a map: its largest value over the levels, then each level, over the image in grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (G, 4) XYXY px, drawn in the first column.
        maps: of one image, from `distillation_maps`; the brightest color of a row is its largest
            value, which is written beside it.
    """
    height, width = image.shape[:2]
    columns = max(len(levels) for levels in maps.values()) + 1
    figure = Figure(figsize=(2.4 * columns, 0.25 + 2.4 * height / width * len(maps)), dpi=120)
    axes = figure.subplots(len(maps), columns, squeeze=False)
    grey = image.mean(2) / 255
    for row, (name, levels) in zip(axes, maps.items(), strict=True):
        whole = {stride: _enlarge(x, stride, height, width) for stride, x in levels.items()}
        panels = {"all levels": np.max(list(whole.values()), axis=0)}
        panels.update({f"stride {stride} px": x for stride, x in whole.items()})
        top = max(float(panels["all levels"].max()), 1e-12)
        for axis in row:
            axis.axis("off")
        for axis, (title, x) in zip(row, panels.items(), strict=False):
            axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
            axis.imshow(x, cmap="inferno", vmin=0, vmax=top, alpha=0.25 + 0.65 * x / top)
            axis.set_title(f"{name}, to {top:.2g}" if axis is row[0] else title, fontsize=6, pad=2)
        for x1, y1, x2, y2 in boxes:
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="deepskyblue", lw=0.6)
            row[0].add_patch(box)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.96, wspace=0.02, hspace=0.12)
    return figure


def _enlarge(x: Tensor, stride: int, height: int, width: int) -> np.ndarray:
    size = [n * stride for n in x.shape]
    return F.interpolate(x[None, None], size, mode="nearest")[0, 0, :height, :width].numpy()


def draw_batch(distiller: Distiller, batch: List[dict]) -> List[Figure]:
    """Figures of every image of a batch; [] where no head has maps."""
    figures = []
    for x, maps in zip(batch, distillation_maps(distiller, batch), strict=True):
        if maps:
            boxes = x["instances"].gt_boxes.tensor.cpu().numpy()
            figures.append(draw_maps(rgb_of(x, distiller.input_format), boxes, maps))
    return figures


def picture_batch(cfg: CfgNode, count: int) -> List[dict]:
    """The first images of DATASETS.TEST[0] with their objects, resized as for testing."""
    records, mapper = labelled_test_data(cfg)
    return [mapper(record) for record in records[:count]]
