"""RepPoints' head: two sets of points per cell, the first of which places a convolution."""

from typing import Any, List, Tuple

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..backbones.sampled_conv import deform_conv_for
from ..losses.precision import at_least_float
from .towers import TowerHead, initialize_convs, start_at_prior

NUM_POINTS = 9
_OFFSET_GRADIENT = 0.1


class RepPointsHead(TowerHead):
    """First points from the box tower, then class logits and refined points at these points.

    Both are predicted by a 3x3 convolution whose nine kernel points sample exactly at the first
    points, and a 1x1 convolution. Refined points are differences from the first ones, which they
    do not train; of the gradient by way of the sampled places a tenth reaches the first points.
    All convolutions start at N(0, 0.01), as the authors' do; mmdetection leaves the two deformable
    ones at PyTorch's default.
    """

    grid: Tensor

    def __init__(
        self,
        *,
        input_shape: List[ShapeSpec],
        num_classes: int,
        prior_prob: float = 0.01,
        **towers: Any,
    ) -> None:
        """Build towers and predictors.

        Args:
            input_shape: one per level, all of the same number of channels C.
            num_classes: K.
            prior_prob: class probability at the start, in (0, 1).
            towers: see `TowerHead`.
        """
        super().__init__(input_shape=input_shape, **towers)
        width = input_shape[0].channels
        self.pts_init_conv = nn.Conv2d(width, width, 3, padding=1)
        self.pts_init = nn.Conv2d(width, 2 * NUM_POINTS, 1)
        self.cls_conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.cls_score = nn.Conv2d(width, num_classes, 1)
        self.pts_refine_conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bbox_pred = nn.Conv2d(width, 2 * NUM_POINTS, 1)
        initialize_convs(self)
        start_at_prior(self.cls_score, prior_prob)
        axis = torch.arange(-1.0, 2.0)
        grid = torch.cartesian_prod(axis, axis).view(-1, 1, 1)
        self.register_buffer("grid", grid, persistent=False)

    def predict(self, level: int, cls_x: Tensor, reg_x: Tensor) -> Tuple[Tensor, ...]:
        """See the base class.

        Returns:
            Tuple: class logits (N, K, H, W), refined points and first points (N, 18, H, W) in
            float32, y and x of each point in strides from the cell.
        """
        first = at_least_float(self.pts_init(self.pts_init_conv(reg_x).relu()))
        offsets = first.detach().lerp(first, _OFFSET_GRADIENT) - self.grid
        logits = self.cls_score(_sample(self.cls_conv, cls_x, offsets).relu())
        refined = self.bbox_pred(_sample(self.pts_refine_conv, reg_x, offsets).relu())
        return logits, at_least_float(refined) + first.detach(), first


def _sample(conv: nn.Conv2d, x: Tensor, offsets: Tensor) -> Tensor:
    """A convolution whose kernel points are moved by `offsets` (N, 18, H, W), y and x each."""
    dtype = conv.weight.dtype  # the operator takes one type, also in mixed precision
    return deform_conv_for(x)(x.to(dtype), offsets.to(dtype), conv.weight, padding=(1, 1))
