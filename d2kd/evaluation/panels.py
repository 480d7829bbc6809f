"""Pictures of detections beside the labelled objects: what is right, wrong and missed."""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from numpy.typing import NDArray
from PIL import Image

from ..inference.detections import WIDTH, rgb_of, truth_of
from ..text import for_plot
from .error_types import JudgedDetections, judge
from .records import boxes_of

_FOUND, _WRONG, _MISSED = "#56B4E9", "#D55E00", "#F0E442"
_WORDS = 12  # boxes, up to which each has a text
_FONT = 11  # pt, of a picture of `WIDTH` px
_Box = Tuple[Sequence[float], str, str, str]  # XYXY px, text, colour, style


class Panel(NamedTuple):
    """One picture of an image: whose, what is to be known about it, and the pixels."""

    name: str
    counts: str
    image: Image.Image


def panels(
    record: Dict[str, Any], channels: str, found: Dict[str, Instances], classes: Sequence[str]
) -> List[Panel]:
    """The labelled objects of an image, then what each model found.

    Args:
        record: mapped, with "image" and "instances".
        channels: order of those of its image.
        found: model -> detections, XYXY px of the mapped image.
        classes: names; [] if unknown.
    """
    image, truth, objects = rgb_of(record, channels), truth_of(record), record["instances"]
    masks = objects.gt_masks if objects.has("gt_masks") else None
    named = zip(truth.pred_boxes.tensor.tolist(), _names(truth, classes), strict=True)
    boxes = [(box, word, _MISSED, "-") for box, word in named]
    counts = f"{len(boxes)} object{'s' * (len(boxes) != 1)}"
    return [Panel("ground truth", counts, _draw(image, boxes, masks)),
            *(panel(name, image, truth, x, classes) for name, x in found.items())]  # fmt: skip


def panel(
    name: str, image: NDArray[np.uint8], truth: Instances, found: Instances, classes: Sequence[str]
) -> Panel:
    """What one model found, what of it is wrong, and what it missed."""
    judged = _judge(truth, found)
    order = np.argsort(-found.scores.numpy(), kind="stable")[: len(judged.kinds)]
    order, kinds = order[::-1].copy(), judged.kinds[::-1]  # the best score on top
    names, places = _names(found, classes), found.pred_boxes.tensor.tolist()
    boxes: List[_Box] = []
    for i, kind in zip(order, kinds, strict=True):
        word = f"{names[i]} {found.scores[i]:.2f}".strip()
        boxes.append((places[i], word, _FOUND if kind == "hit" else _WRONG, "-"))
    missed = [(truth.pred_boxes.tensor[i].tolist(), "", _MISSED, ":")
              for i in np.flatnonzero(~judged.found)]  # fmt: skip
    masks = found.pred_masks.numpy()[order] if found.has("pred_masks") else None
    hits = int((kinds == "hit").sum())
    counts = f"{hits} found, {len(judged.found) - hits} missed, {len(order) - hits} wrong"
    return Panel(name, counts, _draw(image, [*boxes, *missed], masks))


def _names(found: Instances, classes: Sequence[str]) -> List[str]:
    """Names of the classes, where there are several; numbers where there are none."""
    numbers = found.pred_classes.tolist()
    if len(classes) == 1:
        return [""] * len(numbers)
    return [for_plot(classes[k], 20) if k < len(classes) else str(k) for k in numbers]


def _draw(image: NDArray[np.uint8], boxes: Sequence[_Box], masks: Any = None) -> Image.Image:
    """Boxes with their texts, and the masks of the first ones."""
    scale = max(1.0, WIDTH / image.shape[1])
    visualizer = Visualizer(image, scale=scale)
    if masks is not None and len(masks):
        colors = [color for _, _, color, _ in boxes[: len(masks)]]
        visualizer.overlay_instances(masks=masks, assigned_colors=colors, alpha=0.35)
    for box, word, color, style in boxes:
        visualizer.draw_box(box, alpha=1, edge_color=color, line_style=style)
        if word and len(boxes) <= _WORDS:
            visualizer.draw_text(word, box[:2], color=color, font_size=_FONT / scale,
                                 horizontal_alignment="left")  # fmt: skip
    return Image.fromarray(visualizer.output.get_image())


def _judge(truth: Instances, found: Instances) -> JudgedDetections:
    labelled = Instances(truth.image_size, scores=torch.ones(len(truth)), **truth.get_fields())
    records, detections = (instances_to_coco_json(boxes_of(x), 0) for x in (labelled, found))
    objects = [{"id": i, "iscrowd": 0, **x} for i, x in enumerate(records)]
    return judge({"images": [{"id": 0}], "annotations": objects}, detections)
