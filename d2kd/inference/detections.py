"""Pictures of detections, side by side: ground truth, teachers, student."""

from contextlib import contextmanager
from typing import Dict, Iterator, List, Sequence

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..adapters.own_size import resize
from ..adapters.padding import cuts_at
from ..data.class_names import matching
from ..distiller import Distiller
from ..teachers import Teacher
from ..text import for_plot

THRESHOLD = 0.4  # lowest score that is drawn in a training
WIDTH = 480  # px of a panel, at least


def draw_detections(
    image: np.ndarray, panels: Dict[str, Instances], classes: Sequence[str]
) -> Figure:
    """One panel for each title.

    Args:
        image: (H, W, 3) uint8 RGB.
        panels: title -> Instances on the CPU with pred_boxes (XYXY, px), pred_classes, and maybe
            scores.
        classes: names; [] if unknown.
    """
    scale = max(1.0, WIDTH / image.shape[1])
    height, width = (scale * n for n in image.shape[:2])
    figure = Figure(figsize=(len(panels) * width / 100, height / 100 + 0.3), dpi=100)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        metadata = drawing_metadata(classes, found)
        drawn = Visualizer(image, metadata, scale=scale).draw_instance_predictions(found)
        axis.imshow(drawn.get_image())
        axis.set_title(for_plot(title), fontsize=9)
        axis.set_axis_off()
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.3 / (height / 100 + 0.3), wspace=0.02)
    return figure


def drawing_metadata(classes: Sequence[str], found: Instances) -> Metadata:
    """Class names as Detectron2's `Visualizer` can draw them; numbers for classes beyond them."""
    if not classes:
        return Metadata()
    last = max(found.pred_classes.tolist(), default=0)
    beyond = range(len(classes), last + 1)
    return Metadata(thing_classes=[*map(for_plot, classes), *map(str, beyond)])


def truth_of(record: dict) -> Instances:
    """The objects of a mapped record, as `draw_detections` takes them."""
    truth = record["instances"]
    boxes, classes = truth.gt_boxes.tensor.cpu(), truth.gt_classes.cpu()
    return Instances(truth.image_size, pred_boxes=Boxes(boxes), pred_classes=classes)


def rgb_of(record: dict, channels: str) -> NDArray[np.uint8]:
    """The image (H, W, 3) of a mapped record whose channels have this order."""
    pixels = record["image"].permute(1, 2, 0).numpy().astype(np.uint8)
    return np.ascontiguousarray(pixels[..., ::-1] if channels == "BGR" else pixels)


@torch.no_grad()
def detect(
    model: torch.nn.Module,
    image: torch.Tensor,
    threshold: float = THRESHOLD,
    size: Sequence[int] = (),
) -> Instances:
    """Detections from a score on in an image (3, H, W) in 0..255, XYXY px of it, or of `size`."""
    height, width = size or image.shape[-2:]
    inputs = [{"image": image, "height": height, "width": width}]
    found = model(inputs)[0]["instances"].to("cpu")
    return found[found.scores >= threshold]


def compare_detections(
    distiller: Distiller, batch: List[dict], classes: Sequence[str]
) -> List[Figure]:
    """Ground truth, each teacher and the student on mapped records; the mode stays as it is."""
    figures, channels = [], distiller.input_format
    with evaluating(distiller):
        for record in batch:
            image, panels = record["image"], {"ground truth": truth_of(record)}
            for index, teacher in enumerate(distiller.teachers):
                if (found := _of_teacher(teacher, image, channels)) is not None:
                    panels[f"teacher {index}"] = renamed(found, teacher.classes, classes)
            panels["student"] = detect(distiller, image)
            figures.append(draw_detections(rgb_of(record, channels), panels, classes))
    return figures


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and then the mode that there was."""
    training = model.training
    try:
        model.eval()
        yield
    finally:
        model.train(training)


def _of_teacher(teacher: Teacher, image: torch.Tensor, channels: str) -> Instances | None:
    """Detections in a student's image, px of it, as the teacher sees it; None where it cannot."""
    if not teacher.adapter.spec().num_classes:
        return None  # it has maps alone
    seen = image.flip(0) if teacher.input_format != channels else image
    seen = resize(seen, teacher.size) if teacher.size else seen
    if cuts_at(teacher.adapter.backbone, max(seen.shape[-2:])):
        return None  # it would cut the image off
    with teacher.autocast():
        return detect(teacher.detector, seen, size=image.shape[-2:])


def renamed(found: Instances, theirs: Sequence[str], ours: Sequence[str]) -> Instances:
    """Detections in our classes; those of classes that are not ours are left out."""
    if not theirs or not ours:
        return found
    places = {j: i for i, js in enumerate(matching(ours, theirs)) for j in js}
    classes = [places.get(k, -1) for k in found.pred_classes.tolist()]
    kept = found[[i for i, k in enumerate(classes) if k >= 0]]
    kept.pred_classes = kept.pred_classes.new_tensor([k for k in classes if k >= 0])
    return kept
