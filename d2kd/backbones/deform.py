"""Deformable convolution for ResNets and heads, on torchvision's operator."""

from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor

from .sampled_conv import deform_conv_for


class DeformConv2d(Conv2d):
    """Detectron2's Conv2d whose kernel points move by offsets that a convolution predicts.

    The convolution `offset` starts at zero. Its channels are offsets in px of the input, (y, x) per
    kernel point, group by group. Where modulated they are the first two thirds, and the last third
    are the kernel points' weights before the sigmoid, so that it starts as half the plain
    convolution (Zhu et al., "Deformable ConvNets v2", section 3.2).

    Args:
        args: see `detectron2.layers.Conv2d`.
        modulated: predict a weight in (0, 1) for every kernel point too.
        deform_groups: groups of input channels that have offsets of their own.
        kwargs: see `detectron2.layers.Conv2d`; `norm` and `activation` are applied as there.
    """

    def __init__(
        self, *args: Any, modulated: bool = False, deform_groups: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        points = deform_groups * self.kernel_size[0] * self.kernel_size[1]
        self.num_offsets = 2 * points
        self.offset = torch.nn.Conv2d(
            self.in_channels,
            3 * points if modulated else 2 * points,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
        for parameter in self.offset.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve at the moved kernel points.

        Args:
            x: (N, in_channels, H, W).

        Returns:
            (N, out_channels, H', W') as of the plain convolution, after `norm` and `activation`.
        """
        dtype = self.weight.dtype  # the operator takes one type, also in mixed precision
        predicted = self.offset(x).to(dtype)
        offset, mask = predicted[:, : self.num_offsets], predicted[:, self.num_offsets :]
        mask = mask.sigmoid() if mask.shape[1] else None
        geometry = (self.stride, self.padding, self.dilation)
        convolve = deform_conv_for(x)
        x = convolve(x.to(dtype), offset, self.weight, self.bias, *geometry, mask=mask)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def make_deformable(conv: Conv2d, modulated: bool, deform_groups: int) -> DeformConv2d:
    """Return the deformable counterpart of a convolution.

    Args:
        conv: any Detectron2 convolution. The result shares its parameters and its norm.
        modulated: see `DeformConv2d`.
        deform_groups: see `DeformConv2d`.

    Returns:
        A convolution of the same geometry, whose offsets are frozen where `conv.weight` is.
    """
    deformable = DeformConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        norm=conv.norm,
        activation=conv.activation,
        modulated=modulated,
        deform_groups=deform_groups,
    )
    deformable.weight, deformable.bias = conv.weight, conv.bias
    deformable.offset.requires_grad_(conv.weight.requires_grad)
    return deformable
