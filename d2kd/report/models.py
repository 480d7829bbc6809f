"""Size, speed and detections of the runs' best checkpoints, or of the last ones."""

from dataclasses import dataclass, field
from itertools import chain
from typing import Dict, List, NamedTuple, Optional, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from torch import Tensor, nn

from ..checkpoint import load_detector, run_checkpoint
from ..config.loading import load_config
from ..data import build_mapper, first_test_set, labelled_test_data
from ..data.custom import registered
from ..evaluation.best_f1 import score_threshold, stored_best_f1
from ..inference.detections import detect, rgb_of, truth_of
from ..inference.predict import build_student
from ..inference.speed import measure_inference
from .pictures import Choice, Panel, choose_images, panel, truth_panel
from .runs import RunFolder, noted

_SPEED_IMAGES, _SPEED_ROUNDS = 10, 3


class Picture(NamedTuple):
    """An image: why it is shown, and its panels."""

    title: str
    panels: List[Panel]


@dataclass
class Models:
    """What the checkpoints of the runs gave, as far as they and test images could be read.

    Attributes:
        millions: run -> millions of parameters.
        megabytes: run -> size of the weights in memory, 10^6 bytes.
        milliseconds: run -> median time of an image.
        pictures: test images, each as the ground truth and every run has it.
    """

    millions: Dict[str, float] = field(default_factory=dict)
    megabytes: Dict[str, float] = field(default_factory=dict)
    milliseconds: Dict[str, float] = field(default_factory=dict)
    pictures: List[Picture] = field(default_factory=list)


@dataclass
class _Model:
    run: RunFolder
    cfg: CfgNode
    detector: nn.Module
    threshold: float
    images: List[Tensor] = field(default_factory=list)
    found: List[Instances] = field(default_factory=list)


class _TestImages(NamedTuple):
    """Mapped records, titles of the first ones, order of the channels, and class names."""

    batch: List[dict]
    titles: List[str]
    channels: str
    classes: Sequence[str]


def look_at_models(runs: Sequence[RunFolder], images: int, last: bool = False) -> Models:
    """Load, time and try the runs' detectors; what fails is put into the run's `missing`.

    Args:
        runs: whose checkpoints are loaded.
        images: test images to draw; see `choose_images`.
        last: load the last checkpoints, not the best.
    """
    models = [model for run in runs for model in _load(run, last)]
    millions, mb = ({x.run.name: f(x.detector) for x in models} for f in (_millions, _mb))
    found = Models(millions, mb)
    choice = choose_images([x.run for x in models], images)
    loaded = (_test_images(x, choice) for x in models if choice.run in ("", x.run.name))
    data = next((x for x in loaded if x), None)
    models = [x for x in models if data and _detects(x, data)]
    if data and models:
        found.pictures = [_picture(i, models, data) for i in range(len(data.titles))]
        found.milliseconds = _times(models)
    return found


def _millions(detector: nn.Module) -> float:
    return sum(p.numel() for p in detector.parameters()) / 1e6


def _mb(detector: nn.Module) -> float:
    tensors = chain(detector.parameters(), detector.buffers())
    return sum(x.numel() * x.element_size() for x in tensors) / 1e6


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
        if run.found and run.found.best and not stored_best_f1(path):
            threshold = run.found.threshold
            said = f"score threshold {threshold:g}: the best F1 of its last evaluation"
        run.checkpoint = f"{text}; {said}"
        return [_Model(run, cfg, detector, threshold)]
    return []


def _test_images(model: _Model, choice: Choice) -> Optional[_TestImages]:
    """The chosen images, and behind them those that the time is measured on."""
    with noted(model.run, "Test images"), registered(model.cfg):
        records, mapper = labelled_test_data(model.cfg)
        shown = {i: x for i, x in choice.titles.items() if i < len(records)}
        further = range(min(len(records), max(0, _SPEED_IMAGES - len(shown))))
        batch = [mapper(records[i]) for i in (*shown, *further)]
        classes = MetadataCatalog.get(first_test_set(model.cfg)).get("thing_classes", [])
        titles = list(shown.values())
        return _TestImages(batch, titles, model.cfg.INPUT.FORMAT, classes) if batch else None
    return None


def _detects(model: _Model, data: _TestImages) -> bool:
    """Try the images, resized as for this model; whether all went well."""
    with noted(model.run, "Speed and detections"):
        mapper = build_mapper(model.cfg, is_train=False)
        model.images = [mapper(x)["image"] for x in data.batch]
        sizes = [x["image"].shape[-2:] for x in data.batch]
        model.found = [detect(model.detector, x, model.threshold, size)
                       for x, size in zip(model.images, sizes, strict=True)]  # fmt: skip
        return True
    return False


def _picture(index: int, models: Sequence[_Model], data: _TestImages) -> Picture:
    record = data.batch[index]
    image, truth, objects = rgb_of(record, data.channels), truth_of(record), record["instances"]
    masks = objects.gt_masks if objects.has("gt_masks") else None
    panels = [truth_panel(image, truth, data.classes, masks)]
    panels += [panel(x.run.name, image, truth, x.found[index], data.classes) for x in models]
    return Picture(data.titles[index], panels)


def _times(models: Sequence[_Model]) -> Dict[str, float]:
    inputs = [[{"image": x} for x in model.images[:_SPEED_IMAGES]] for model in models]
    times = measure_inference([x.detector for x in models], inputs, _SPEED_ROUNDS)
    return {x.run.name: ms for x, ms in zip(models, times, strict=True)}
