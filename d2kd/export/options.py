"""What is exported, checked before anything is traced, and described in the file."""

import copy
import json
from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from .. import __version__
from ..errors import ConfigError, check_choice
from .rules import rule_of

LIMITS = {
    "score_threshold": "test_score_thresh",
    "nms_threshold": "test_nms_thresh",
    "topk": "test_topk_candidates",
    "max_detections": "max_detections_per_image",
}
"""Limits of the inference and the detectors' attributes that hold them."""


@dataclass(frozen=True)
class Options:
    """How to export a detector.

    Attributes:
        size: height and width of the image that the graph takes, px.
        input_format: channel order that the detector was trained with, "BGR" or "RGB"; a config's
            INPUT.FORMAT.
        class_names: K names, or none if they are not known.
        nms: put selection and NMS into the graph.
        score_threshold: score in [0, 1] that a detection must exceed. None here and below: the
            detector's own.
        nms_threshold: IoU in [0, 1] above which the lower score of a class goes.
        topk: candidates per level before NMS, at least 1.
        max_detections: detections after NMS, at least 1.
        best_f1: what validation chose, see `d2kd.evaluation.best_f1`; the graph does not use it.
    """

    size: Tuple[int, int]
    input_format: str
    class_names: Sequence[str] = ()
    nms: bool = True
    score_threshold: Optional[float] = None
    nms_threshold: Optional[float] = None
    topk: Optional[int] = None
    max_detections: Optional[int] = None
    best_f1: Optional[Dict[str, float]] = None

    def __post_init__(self) -> None:
        """Check what needs no detector.

        Raises:
            ConfigError: an option is out of its range.
        """
        check_choice(self.input_format, ("BGR", "RGB"), "input_format")
        if len(self.size) != 2 or not all(isinstance(x, int) and x > 0 for x in self.size):
            raise ConfigError(f"size must be height and width in px, both above 0, not {self.size}")
        for name in LIMITS:
            value, whole = getattr(self, name), name in ("topk", "max_detections")
            if value is not None and not (value >= 1 if whole else 0 <= value <= 1):
                allowed = "at least 1" if whole else "from 0 to 1"
                raise ConfigError(f"{name} must be {allowed}, not {value}.")


def prepare(detector: nn.Module, options: Options) -> DenseDetector:
    """A copy on the CPU, in eval mode, with the limits of `options`.

    Raises:
        ConfigError: the detector cannot be exported, or not with these options.
    """
    rule_of(detector)
    copied: DenseDetector = copy.deepcopy(detector).cpu().float().eval().requires_grad_(False)
    for name, attribute in LIMITS.items():
        if getattr(options, name) is not None:
            setattr(copied, attribute, getattr(options, name))
    padded = padded_size(copied, options.size)
    if padded != tuple(options.size):
        raise ConfigError(
            f"size {tuple(options.size)} is no size that this detector computes on: it pads such "
            f"images to {padded}. Export with that."
        )
    names = len(options.class_names)
    if names not in (0, copied.num_classes):
        raise ConfigError(
            f"class_names has {names} names, but the detector {copied.num_classes} classes."
        )
    return copied


def padded_size(detector: DenseDetector, size: Tuple[int, int]) -> Tuple[int, int]:
    """Height and width, px, to which a detector pads an image of this size."""
    images = detector.preprocess_image([{"image": torch.zeros(3, *size)}])
    return tuple(images.tensor.shape[-2:])


def describe(detector: DenseDetector, options: Options) -> Dict[str, Any]:
    """All that is needed to use the file; docs/guide/export.md explains the keys."""
    return {
        "detector": type(detector).__name__,
        "size": list(options.size),
        "channels": options.input_format,
        "multiple": max(detector.backbone.size_divisibility, 1),
        "pad_value": detector.pixel_mean.flatten().tolist(),
        "classes": list(options.class_names),
        "num_classes": detector.num_classes,
        "nms": options.nms,
        **{name: getattr(detector, attribute) for name, attribute in LIMITS.items()},
        "best_f1": options.best_f1 or {},
        "d2kd_version": __version__,
    }


def options_of(description: Dict[str, Any]) -> Options:
    """The options that `describe` was given."""
    return Options(
        size=tuple(description["size"]),
        input_format=description["channels"],
        class_names=description["classes"],
        nms=description["nms"],
        **{name: description[name] for name in LIMITS},
    )


def check_described(description: Dict[str, Any], detector: nn.Module) -> None:
    """Raise a ConfigError if a file's description is of another detector."""
    here = type(detector).__name__, detector.num_classes
    there = description["detector"], description["num_classes"]
    if here != there:
        raise ConfigError(
            f"The file is of a {there[0]} with {there[1]} classes, not of this {here[0]} with "
            f"{here[1]}."
        )


def to_strings(description: Dict[str, Any]) -> Dict[str, str]:
    """Each value as JSON, since ONNX keeps strings only."""
    return {key: json.dumps(value) for key, value in description.items()}


def from_strings(metadata: Dict[str, str]) -> Dict[str, Any]:
    """The reverse of `to_strings`."""
    return {key: json.loads(value) for key, value in metadata.items()}
