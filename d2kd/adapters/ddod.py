"""Adapter of DDOD, which assigns anchors by what they predict."""

import copy
from typing import Callable, ClassVar, List, Tuple

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from ..detectors.ddod import DDOD
from .anchor_point import AnchorPointDetectorAdapter
from .base import DETECTOR_ADAPTER_REGISTRY
from .dense import STEPS
from .output import DetectorOutput


@DETECTOR_ADAPTER_REGISTRY.register()
class DDODAdapter(AnchorPointDetectorAdapter):
    """As for ATSS; `labels` and `matched_boxes` are those of the classification."""

    detector: DDOD
    has_supervise_by = True
    replays: ClassVar[Tuple[Callable, ...]] = (*STEPS, DDOD.forward_training)

    def _assign(
        self, output: DetectorOutput, gt: List[Instances]
    ) -> Tuple[List[Tensor], List[Tensor]]:
        maps = (list(x.values()) for x in (output.logits, output.deltas))
        return self.detector.label_anchors(list(output.anchors.values()), gt, *maps)

    def supervise_by(
        self, output: DetectorOutput, gt: List[Instances], predicted: DetectorOutput
    ) -> None:
        """See the base class."""
        seen = copy.copy(output)
        seen.logits, seen.deltas = predicted.logits, predicted.deltas
        self._fill(output, gt, *self._assign(seen, gt))

    def assign(self, output: DetectorOutput, boxes: Tensor, classes: Tensor) -> List[Tensor]:
        """See the base class. A place's logit is that of its box's class."""
        seen = copy.copy(output)
        seen.logits = {}
        for stride, x in output.logits.items():
            index = classes[:, None].expand(-1, x.shape[1], -1)
            seen.logits[stride] = torch.cat([F.pad(x, (0, 1)), x.gather(2, index)], 2)
        return super().assign(seen, boxes, classes)
