"""Size, speed and detections of the runs' best checkpoints, or of the last ones."""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..checkpoint import load_detector, run_checkpoint
from ..config.loading import load_config
from ..data import first_test_set, register_custom_datasets
from ..evaluation.best_f1 import score_threshold
from ..inference.detections import detect, draw_detections, truth_of
from ..inference.distillation_maps import picture_batch
from ..inference.predict import build_student
from ..inference.speed import measure_inference
from .runs import RunFolder, noted

_SPEED_IMAGES, _SPEED_ROUNDS = 10, 3


@dataclass
class Models:
    """What the checkpoints of the runs gave, as far as they and test images could be read.

    Attributes:
        millions: run -> millions of parameters.
        milliseconds: run -> median time of an image.
        pictures: detections of the runs beside the ground truth, one figure an image.
    """

    millions: Dict[str, float] = field(default_factory=dict)
    milliseconds: Dict[str, float] = field(default_factory=dict)
    pictures: List[Figure] = field(default_factory=list)


@dataclass
class _Model:
    run: RunFolder
    cfg: CfgNode
    detector: nn.Module
    threshold: float

    def input(self, image: Tensor, channels: str) -> Tensor:
        """An image (3, H, W) in the channel order of this model."""
        return image if channels == self.cfg.INPUT.FORMAT else image.flip(0)


@dataclass
class _TestImages:
    batch: List[dict]
    channels: str
    classes: Sequence[str]


_Found = Tuple[_Model, List[Instances]]


def look_at_models(runs: Sequence[RunFolder], images: int, last: bool = False) -> Models:
    """Load, time and try the runs' detectors; what fails is put into the run's `missing`.

    Args:
        runs: whose checkpoints are loaded.
        images: test images to draw, those of the first run whose data is there.
        last: load the last checkpoints, not the best.
    """
    models = [model for run in runs for model in _load(run, last)]
    found = Models({x.run.name: _millions(x.detector) for x in models})
    loaded = (_test_images(x, max(images, _SPEED_IMAGES)) for x in models)
    data = next((x for x in loaded if x), None)
    detections = [(x, y) for x in models if data and (y := _detections(x, data))]
    if not (data and detections):
        return found
    found.pictures = [_compare(i, detections, data) for i in range(min(images, len(data.batch)))]
    found.milliseconds = _times([x for x, _ in detections], data)
    return found


def _millions(detector: nn.Module) -> float:
    return sum(p.numel() for p in detector.parameters()) / 1e6


def _load(run: RunFolder, last: bool) -> List[_Model]:
    if not run.config:
        run.missing.append("Speed and detections: without its config the model is not known.")
        return []
    with noted(run, "Speed and detections"):
        path, text = run_checkpoint(str(run.folder), last)
        cfg = load_config(str(run.folder), [])
        detector = build_student(cfg)
        load_detector(detector, path, str(run.folder))
        threshold, said = score_threshold(path)
        run.checkpoint = f"{text}; {said}"
        return [_Model(run, cfg, detector, threshold)]
    return []


def _test_images(model: _Model, count: int) -> Optional[_TestImages]:
    with noted(model.run, "Test images"):
        register_custom_datasets(model.cfg)
        name = first_test_set(model.cfg)
        batch = picture_batch(model.cfg, count)
        classes = MetadataCatalog.get(name).get("thing_classes", [])
        return _TestImages(batch, model.cfg.INPUT.FORMAT, classes) if batch else None
    return None


def _detections(model: _Model, data: _TestImages) -> List[Instances]:
    """Those in each image; none if the detector fails in one, so that the others are shown."""
    with noted(model.run, "Speed and detections"):
        inputs = [model.input(x["image"], data.channels) for x in data.batch]
        return [detect(model.detector, x, model.threshold) for x in inputs]
    return []


def _compare(index: int, detections: Sequence[_Found], data: _TestImages) -> Figure:
    record = data.batch[index]
    panels = {"ground truth": truth_of(record)}
    panels.update({model.run.name: found[index] for model, found in detections})
    pixels = record["image"].permute(1, 2, 0).numpy().astype(np.uint8)
    rgb = pixels[..., ::-1] if data.channels == "BGR" else pixels
    return draw_detections(np.ascontiguousarray(rgb), panels, data.classes)


def _times(models: Sequence[_Model], data: _TestImages) -> Dict[str, float]:
    inputs = [{"image": x["image"]} for x in data.batch[:_SPEED_IMAGES]]
    times = measure_inference([x.detector for x in models], inputs, _SPEED_ROUNDS)
    return {x.run.name: ms for x, ms in zip(models, times, strict=True)}
