"""Predictors of a box's quality from the distributions of its sides."""

from typing import Any, List, Mapping

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..losses.precision import at_least_float

QUALITY_PREDICTOR_REGISTRY = Registry("QUALITY_PREDICTOR")
QUALITY_PREDICTOR_REGISTRY.__doc__ = "Quality predictors of GFL heads; MODEL.GFL.QUALITY names one."


@QUALITY_PREDICTOR_REGISTRY.register()
class DGQP(nn.Sequential):
    """Distribution-guided quality predictor (GFLv2, CVPR 2021, arXiv 2011.12885).

    The statistics of each side are its `topk` largest probabilities and their mean. No gradient is
    cut: the class loss reaches the box tower through them.
    """

    def __init__(self, reg_max: int, topk: int = 4, channels: int = 64) -> None:
        """Build the two 1x1 convolutions.

        Args:
            reg_max: last bin of the distributions.
            topk: probabilities kept per side, at most reg_max + 1.
            channels: hidden width.
        """
        super().__init__(*_convolutions(4 * (topk + 1), channels))
        self.topk = topk

    def statistics(self, distributions: Tensor) -> Tensor:
        """Statistics (N, 4 * (topk + 1), H, W), side by side, of (N, 4 * (reg_max + 1), H, W)."""
        p = at_least_float(distributions).unflatten(1, (4, -1)).softmax(2)
        top = p.topk(self.topk, dim=2).values
        return torch.cat([top, top.mean(2, keepdim=True)], 2).flatten(1, 2)

    def forward(self, distributions: Tensor) -> Tensor:
        """Quality logit (N, 1, H, W) of box distributions (N, 4 * (reg_max + 1), H, W)."""
        return super().forward(self.statistics(distributions))


def _convolutions(width: int, channels: int) -> List[nn.Module]:
    convs = nn.Conv2d(width, channels, 1), nn.Conv2d(channels, 1, 1)
    for conv in convs:
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.get_parameter("bias"))
    return [convs[0], nn.ReLU(), convs[1]]


def build_quality_predictor(name: str, reg_max: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a registered predictor for distributions over 0, ..., reg_max.

    `options` are those of MODEL.GFL.<name>, in lower case, if there is such a node.
    """
    return QUALITY_PREDICTOR_REGISTRY.get(name)(reg_max, **options)
