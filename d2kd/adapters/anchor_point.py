"""Adapter of ATSS and GFL, and base of those of d2kd's other dense detectors but FCOS."""

import dataclasses
from typing import Callable, ClassVar, Dict, FrozenSet, List, Optional, Tuple

import torch
from torch import Tensor

from ..detectors.base import AnchorPointDetector
from ..detectors.cells import CellDetector
from ..detectors.inference import with_quality
from .base import DETECTOR_ADAPTER_REGISTRY
from .dense import STEPS, DenseDetectorAdapter
from .output import DetectorOutput, DetectorSpec


@DETECTOR_ADAPTER_REGISTRY.register()
class AnchorPointDetectorAdapter(DenseDetectorAdapter):
    """As for the stock dense detectors; boxes may be distributions, scores joint ones."""

    detector: CellDetector
    replays: ClassVar[Tuple[Callable, ...]] = (*STEPS, AnchorPointDetector.forward_training)

    def __init__(self, detector: CellDetector) -> None:
        """See the base class."""
        super().__init__(detector)
        optional = {"quality": bool(detector.quality), "distributions": detector.reg_max > 0}
        absent = {name for name, there in optional.items() if not there}
        self.provides = (self.provides | set(optional)) - absent

    def spec(self) -> DetectorSpec:
        """See the base class."""
        m = self.detector
        return dataclasses.replace(
            super().spec(), reg_max=m.reg_max, box_coding=m.box_coding, quality=m.quality
        )

    def _dims(self) -> List[int]:
        return self.detector.prediction_dims

    def derive(self, output: DetectorOutput, need: FrozenSet[str]) -> None:
        """See the base class."""
        super().derive(output, need)
        if self.detector.reg_max:
            output.distributions = {s: x.unflatten(-1, (4, -1)) for s, x in output.deltas.items()}

    @torch.no_grad()
    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """See the base class."""
        return self.detector.class_scores(logits, quality)

    @property
    def _clips_first(self) -> bool:
        return True

    def ranked_by(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """See the base class."""
        scores = self.class_scores(logits, quality)
        if quality is None or not self.detector.rescore:
            return scores
        return with_quality(scores, quality)

    def decode(self, output: DetectorOutput) -> Dict[int, Tensor]:
        """See the base class."""
        boxes = {}
        for stride, deltas in output.deltas.items():
            strides = deltas.new_full((), stride, dtype=torch.float32)
            boxes[stride] = self.detector.decode(deltas, output.anchors[stride].tensor, strides)
        return boxes
