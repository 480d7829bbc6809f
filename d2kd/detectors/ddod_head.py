"""DDOD's head."""

from typing import Any

from torch import nn

from ..backbones.deform import DeformConv2d
from .head import ATSSHead


class DDODHead(ATSSHead):
    """ATSS's head with an IoU logit, whose towers each begin with a deformable convolution.

    Each tower predicts offsets of its own, which start at zero: it begins as ATSS's head of the
    same seed. The first convolution is of version 1, with one group of offsets, and is followed by
    norm and ReLU as the others are.
    """

    def __init__(self, *, deform: bool = True, **kwargs: Any) -> None:
        """Build the head.

        Args:
            deform: False for plain first convolutions; then it is ATSS's head.
            kwargs: see the base class.
        """
        super().__init__(**kwargs)
        for tower in (self.cls_subnet, self.bbox_subnet):
            first = next(iter(tower), None)
            if deform and isinstance(first, nn.Conv2d):
                tower[0] = _deformable(first)


def _deformable(conv: nn.Conv2d) -> DeformConv2d:
    """The same weights, deformable; `make_deformable` is for Detectron2's convolutions."""
    width, size = conv.in_channels, conv.kernel_size
    made = DeformConv2d(width, width, size, padding=conv.padding, bias=conv.bias is not None)
    made.weight, made.bias = conv.weight, conv.bias
    return made
