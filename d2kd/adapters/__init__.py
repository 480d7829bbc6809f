"""Adapters: what a stock detector computes in a training step, as named fields."""

from .anchor_point import AnchorPointDetectorAdapter
from .auto_assign import AutoAssignAdapter
from .base import DETECTOR_ADAPTER_REGISTRY, DetectorAdapter
from .ddod import DDODAdapter
from .dense import DenseDetectorAdapter
from .find import build_adapter
from .maps_only import FeatureExtractorAdapter, MapsAdapter, TransformersDetectorAdapter
from .output import (
    BY_CLASS,
    STUDENT_ONLY,
    DenseMaps,
    DetectorOutput,
    DetectorSpec,
    MaskOutput,
    RoIOutput,
)
from .rcnn import GeneralizedRCNNAdapter
from .reppoints import RepPointsAdapter

__all__ = [
    "AnchorPointDetectorAdapter",
    "AutoAssignAdapter",
    "BY_CLASS",
    "DDODAdapter",
    "DETECTOR_ADAPTER_REGISTRY",
    "STUDENT_ONLY",
    "DenseDetectorAdapter",
    "DenseMaps",
    "DetectorAdapter",
    "DetectorOutput",
    "DetectorSpec",
    "FeatureExtractorAdapter",
    "GeneralizedRCNNAdapter",
    "MapsAdapter",
    "MaskOutput",
    "RepPointsAdapter",
    "RoIOutput",
    "TransformersDetectorAdapter",
    "build_adapter",
]
