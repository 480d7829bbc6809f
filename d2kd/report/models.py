"""Size, speed and detections of the runs' best checkpoints, or of the last ones."""

from dataclasses import dataclass, field
from itertools import chain
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from torch import Tensor, nn

from ..checkpoint import run_checkpoint
from ..config.loading import load_config
from ..data import build_mapper, first_test_set, labelled_test_data
from ..data.class_names import recorded_classes
from ..data.custom import registered
from ..evaluation.best_f1 import score_threshold, stored_best_f1
from ..evaluation.panels import Panel, panels
from ..inference.detections import detect, renamed
from ..inference.predict import build_student
from ..inference.speed import measure_inference
from ..inspection.checkup import parameters
from ..quantize import load_quantized, set_rounding
from .runs import RunFolder, noted

_SPEED_IMAGES, _SPEED_ROUNDS = 10, 3


class Picture(NamedTuple):
    """An image: why it is shown, and its panels."""

    title: str
    panels: List[Panel]


def choose_images(runs: Sequence[RunFolder], count: int) -> Tuple[str, Dict[int, str]]:
    """The images with the most mistakes of the first distilled run, and those with the fewest.

    Of the first run where there is no distilled one, and the first images where detections are
    missing. Returns the run whose test images they are, and why each, by its number, is shown.
    """
    known = [run for run in runs if run.found]
    subject = next((run for run in known if run.distilled), next(iter(known), None))
    if subject is None or subject.found is None:
        return "", {i: f"Test image {i + 1}" for i in range(count)}
    found, missed, wrong = subject.found.mistakes
    half = min((count + 1) // 2, len(found))
    worst = np.lexsort((-wrong, -missed, -(missed + wrong)))[:half].tolist()
    best = np.lexsort((-found, missed + wrong, found == 0)).tolist()
    best = [i for i in best if i not in worst][: count - half]
    of = f"in the last evaluation of {subject.name}"
    titles = {i: f"{kind} {number} {of}" for kind, images in (("Worst", worst), ("Best", best))
              for number, i in enumerate(images, 1)}  # fmt: skip
    return subject.name, titles


@dataclass
class _Model:
    run: RunFolder
    cfg: CfgNode
    detector: nn.Module
    classes: Sequence[str]
    threshold: float
    images: List[Tensor] = field(default_factory=list)
    found: List[Instances] = field(default_factory=list)


class _TestImages(NamedTuple):
    """Mapped records, titles of the first ones, order of the channels, and class names."""

    batch: List[dict]
    titles: List[str]
    channels: str
    classes: Sequence[str]


def look_at_models(runs: Sequence[RunFolder], images: int, last: bool = False) -> List[Picture]:
    """Load, time and try the runs' detectors; what fails is put into the run's `missing`.

    What they cost is put into the run's `costs`.

    Args:
        runs: whose checkpoints are loaded.
        images: test images to draw; see `choose_images`.
        last: load the last checkpoints, not the best.

    Returns:
        List[Picture]: test images, each as the ground truth and every run has it.
    """
    models = [model for run in runs for model in _load(run, last)]
    of, titles = choose_images([x.run for x in models], images)
    loaded = (_test_images(x, titles) for x in models if of in ("", x.run.name))
    data = next((x for x in loaded if x), None)
    models = [x for x in models if data and _detects(x, data)]
    if not (data and models):
        return []
    for model in models:
        set_rounding(model.detector, False)  # rounding in float takes time that the file does not
    inputs = [[{"image": x} for x in model.images[:_SPEED_IMAGES]] for model in models]
    times = measure_inference([x.detector for x in models], inputs, _SPEED_ROUNDS)
    for model, ms in zip(models, times, strict=True):
        model.run.costs["ms per image"] = ms
    return [
        Picture(title, panels(data.batch[i], data.channels,
                              {x.run.name: x.found[i] for x in models}, data.classes))
        for i, title in enumerate(data.titles)
    ]  # fmt: skip


def _costs(detector: nn.Module) -> Dict[str, float]:
    tensors = chain(detector.parameters(), detector.buffers())
    return {
        "M parameters": parameters(detector),
        "MB of weights": sum(x.numel() * x.element_size() for x in tensors) / 1e6,
    }


def _load(run: RunFolder, last: bool) -> List[_Model]:
    if not run.config:
        run.missing.append("Speed and detections: without its config the model is not known.")
        return []
    with noted(run, "Speed and detections"):
        path, text = run_checkpoint(str(run.folder), last)
        cfg = load_config(str(run.folder), [])
        detector = build_student(cfg)
        load_quantized(detector, path, str(run.folder))
        threshold, said = score_threshold(path)
        if run.found and run.found.best and not stored_best_f1(path):
            threshold = run.found.threshold
            said = f"score threshold {threshold:g}: the best F1 of its last evaluation"
        run.checkpoint, run.costs = f"{text}; {said}", _costs(detector)
        return [_Model(run, cfg, detector, recorded_classes(str(run.folder)), threshold)]
    return []


def _test_images(model: _Model, titles: Dict[int, str]) -> Optional[_TestImages]:
    """The chosen images, and behind them those that the time is measured on."""
    with noted(model.run, "Test images"), registered(model.cfg):
        records, mapper = labelled_test_data(model.cfg)
        shown = {i: x for i, x in titles.items() if i < len(records)}
        further = range(min(len(records), max(0, _SPEED_IMAGES - len(shown))))
        batch = [mapper(records[i]) for i in (*shown, *further)]
        classes = MetadataCatalog.get(first_test_set(model.cfg)).get("thing_classes", [])
        said, order = list(shown.values()), model.cfg.INPUT.FORMAT
        return _TestImages(batch, said, order, classes) if batch else None
    return None


def _detects(model: _Model, data: _TestImages) -> bool:
    """Try the images, resized as for this model; whether all went well."""
    with noted(model.run, "Speed and detections"):
        mapper = build_mapper(model.cfg, is_train=False)
        model.images = [mapper(x)["image"] for x in data.batch]
        sizes = [x["image"].shape[-2:] for x in data.batch]
        found = [detect(model.detector, x, model.threshold, size)
                 for x, size in zip(model.images, sizes, strict=True)]  # fmt: skip
        model.found = [renamed(x, model.classes, data.classes) for x in found]
        return True
    return False
