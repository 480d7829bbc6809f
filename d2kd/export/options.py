"""What is exported, and how."""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

from ..config.files import LARGEST as LARGEST_NUMBER
from ..errors import ConfigError, check_choice

LIMITS = ("score_threshold", "nms_threshold", "topk", "max_detections")
"""Options that limit detections; a kind of detector has all or some of them."""
MASKS = ("raw", "pasted")
LARGEST = 16_384
"""Px of a side of the input; no larger one is read either."""


@dataclass(frozen=True)
class Options:
    """How to export a detector.

    Attributes:
        size: height and width of the image that the graph takes, px.
        input_format: channel order that the detector was trained with, "BGR" or "RGB"; a config's
            INPUT.FORMAT.
        resize: shorter side that images are resized to and longer one at most, px, a config's
            INPUT.MIN_SIZE_TEST, 0 for none, and MAX_SIZE_TEST; None: images fill `size`.
        class_names: K names, or none if they are not known.
        nms: put selection and NMS into the graph.
        score_threshold: score in [0, 1] that a detection must exceed. None here and below: the
            detector's own. They are for files with NMS.
        nms_threshold: IoU in [0, 1] above which the lower score of a class goes.
        topk: candidates per level before NMS, at least 1; dense detectors have it.
        max_detections: detections after NMS, at least 1.
        masks: of a detector that has them, "raw" (M, M) in their boxes, or "pasted" into the image.
        dynamic_batch: take any number of images; dense detectors can.
        dynamic_size: take any size in multiples of what the detector pads to, and `size` by
            default; dense detectors can.
        fp16: store weights in half precision, in ONNX and OpenVINO.
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
    masks: str = "raw"
    dynamic_batch: bool = False
    dynamic_size: bool = False
    fp16: bool = False
    best_f1: Optional[Dict[str, float]] = None
    resize: Optional[Tuple[int, int]] = None

    def __post_init__(self) -> None:
        """Check what needs no detector.

        Raises:
            ConfigError: an option is out of its range.
        """
        check_choice(self.input_format, ("BGR", "RGB"), "input_format")
        check_choice(self.masks, MASKS, "masks")
        if len(self.size) != 2 or not all(type(x) is int and 1 <= x <= LARGEST for x in self.size):
            raise ConfigError(
                f"size must be height and width, each from 1 to {LARGEST} px, not {self.size}."
            )
        if self.resize is not None and not is_resize(self.resize):
            raise ConfigError(f"resize must be two whole numbers, px, not {self.resize}")
        limits = [name for name in LIMITS if getattr(self, name) is not None]
        if limits and not self.nms:
            raise ConfigError(
                f"{limits[0]} limits what NMS gives: with no NMS (--no-nms) leave it out."
            )
        for name in LIMITS:
            value, whole = getattr(self, name), name in ("topk", "max_detections")
            if value is not None and not (value >= 1 if whole else 0 <= value <= 1):
                allowed = "at least 1" if whole else "from 0 to 1"
                raise ConfigError(f"{name} must be {allowed}, not {value}.")


def is_resize(values: Sequence[Any]) -> bool:
    """Whether these are INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, px."""
    return len(values) == 2 and all(
        type(x) is int and least <= x <= LARGEST_NUMBER
        for x, least in zip(values, (0, 1), strict=True)
    )
