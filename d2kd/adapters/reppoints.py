"""Adapter of RepPoints, which predicts points twice and assigns cells by the first ones."""

from typing import Callable, ClassVar, List, Tuple

from detectron2.structures import Instances
from torch import Tensor

from ..detectors.reppoints import RepPoints
from .anchor_point import AnchorPointDetectorAdapter
from .base import DETECTOR_ADAPTER_REGISTRY
from .dense import STEPS
from .output import DetectorOutput


@DETECTOR_ADAPTER_REGISTRY.register()
class RepPointsAdapter(AnchorPointDetectorAdapter):
    """`deltas` are the refined points; `labels` and `matched_boxes` those of the second stage.

    The class logits are computed at places that the box tower predicts: `head_from` takes them from
    `reg_x`, so that a student's taps in a teacher's head are sampled at the student's places.
    """

    detector: RepPoints
    replays: ClassVar[Tuple[Callable, ...]] = (*STEPS, RepPoints.forward_training)
    predicted = ("logits", "deltas", "first_deltas")

    def _assign(
        self, output: DetectorOutput, gt: List[Instances]
    ) -> Tuple[List[Tensor], List[Tensor]]:
        first = list(output.first_deltas.values())
        return self.detector.label_anchors(list(output.anchors.values()), gt, first)

    def head_from(
        self, stride: int, block: int, cls_x: Tensor, reg_x: Tensor
    ) -> Tuple[Tensor, ...]:
        """See the base class; without the first points."""
        return super().head_from(stride, block, cls_x, reg_x)[:2]
