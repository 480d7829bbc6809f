"""Response distillation of the mask branch of Mask R-CNN."""

from typing import Dict

import torch
from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..adapters.output import MaskOutput
from ..losses import mask_divergence, mean_over_ranks
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead
from .options import check_options


@DISTILLATION_HEAD_REGISTRY.register()
class MaskKD(DistillationHead):
    """Mask logits of both detectors on the student's foreground proposals.

    The mask of the object's class (or the only one) is compared pixel by pixel; see
    `mask_divergence`. The sum over proposals is divided by their number, a mean over ranks. No
    paper: Hinton's distillation (arXiv 1503.02531) of each pixel; formula and weight are ours.
    """

    requires = frozenset({"masks"})

    def __init__(
        self, student: DetectorSpec, teacher: DetectorSpec, *, temperature: float = 1.0
    ) -> None:
        """Set the temperature.

        Args:
            student, teacher: the two detectors.
            temperature: divisor of the logits, > 0; see `mask_divergence`.

        Raises:
            ValueError: it is not above 0.
        """
        super().__init__()
        check_options("MaskKD", above_zero={"TEMPERATURE": temperature})
        self.temperature = temperature

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "mask"."""
        classes = torch.cat([x.gt_classes for x in student.masks.proposals])
        a, b = (_of_class(x.masks, classes) for x in (student, teacher))
        loss = mask_divergence(a, b, self.temperature)
        count = mean_over_ranks(loss.new_full((), len(loss))).clamp(min=1)
        return {"mask": loss.sum() / count}


def _of_class(masks: MaskOutput, classes: Tensor) -> Tensor:
    """(F, M, M) logits of each proposal's class."""
    if masks.logits.shape[1] == 1:
        return masks.logits[:, 0]
    return masks.logits[torch.arange(len(classes), device=classes.device), classes]
