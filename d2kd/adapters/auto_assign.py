"""Adapter of AutoAssign, which labels no cells unless it is told to."""

from typing import Callable, ClassVar, Dict, List, Tuple

from detectron2.structures import Instances

from ..detectors.auto_assign import AutoAssign
from .anchor_point import AnchorPointDetectorAdapter
from .base import DETECTOR_ADAPTER_REGISTRY
from .dense import STEPS
from .output import DetectorOutput

_LABELS = frozenset({"labels", "matched_boxes"})


@DETECTOR_ADAPTER_REGISTRY.register()
class AutoAssignAdapter(AnchorPointDetectorAdapter):
    """As for ATSS and GFL, with class scores that leave the objectness out, as PGD reads them.

    `labels` and `matched_boxes` are there with MODEL.AUTOASSIGN.HARD_LABELS only.
    """

    detector: AutoAssign
    replays: ClassVar[Tuple[Callable, ...]] = (*STEPS, AutoAssign.forward_training)
    conditions: ClassVar[Dict[str, str]] = {
        **AnchorPointDetectorAdapter.conditions,
        **dict.fromkeys(sorted(_LABELS), "MODEL.AUTOASSIGN.HARD_LABELS True"),
    }

    def __init__(self, detector: AutoAssign) -> None:
        """See the base class."""
        super().__init__(detector)
        if not detector.hard_labels:
            self.provides = self.provides - _LABELS

    @property
    def _clips_first(self) -> bool:
        return self.detector.score == "product"

    def _supervise(self, out: DetectorOutput, gt: List[Instances]) -> None:
        m = self.detector
        maps = (out.anchors, out.logits, out.deltas, out.quality)
        anchors, logits, deltas, quality = (list(x.values()) for x in maps)
        out.losses, out.gt = m.losses_of_boxes(anchors, logits, deltas, quality, gt), gt
        if m.hard_labels:
            out.labels, out.matched_boxes = self.label(out, gt)
