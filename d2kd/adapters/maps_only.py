"""Adapters of teachers without dense heads or regions: maps by stride, and whole sets of boxes."""

import math
from typing import FrozenSet, List, Optional

from detectron2.structures import ImageList, Instances

from ..detectors import TransformersDetector
from .base import DETECTOR_ADAPTER_REGISTRY, DetectorAdapter
from .output import DetectorOutput, DetectorSpec


class MapsAdapter(DetectorAdapter):
    """The maps of a backbone, whatever follows it."""

    provides = frozenset({"features"})

    def spec(self) -> DetectorSpec:
        """See the base class."""
        shapes = sorted(self.backbone.output_shape().values(), key=lambda x: x.stride)
        return DetectorSpec(
            name=type(self.detector).__name__,
            features={x.stride: x for x in shapes},
            num_classes=int(getattr(self.detector, "num_classes", 0)),
        )

    def by_stride(self, maps: dict) -> dict:
        """Maps by name as maps by stride, px."""
        shapes = self.backbone.output_shape()
        return {shapes[name].stride: x for name, x in maps.items()}

    def forward(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """See the base class."""
        return DetectorOutput(images, self, self.by_stride(self.backbone(images.tensor)))


@DETECTOR_ADAPTER_REGISTRY.register()
class FeatureExtractorAdapter(MapsAdapter):
    """Maps of a backbone that detects nothing."""

    @property
    def divisor(self) -> int:
        """See the base class; the coarsest map has whole cells."""
        return math.lcm(super().divisor, *self.spec().features)


@DETECTOR_ADAPTER_REGISTRY.register()
class TransformersDetectorAdapter(MapsAdapter):
    """Maps of the encoder; its boxes with the probabilities of all classes, if asked for."""

    detector: TransformersDetector
    provides = frozenset({"features", "sets"})

    def forward(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """See the base class."""
        backbone = self.detector.backbone
        if "sets" not in need:
            return DetectorOutput(images, self, self.by_stride(backbone.encode(images)))
        if not need - {"sets", "gt"}:  # no maps are kept
            return DetectorOutput(images, self, {}, sets=backbone.predict_alone(images))
        maps, sets = backbone.encode_and_predict(images)
        return DetectorOutput(images, self, self.by_stride(maps), sets=sets)
