"""RepPoints' head: two sets of points per cell, the first of which places a convolution."""

from typing import Any, List, Tuple

from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..losses.precision import at_least_float
from .point_conv import conv_at_points
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

    def predict(self, level: int, cls_x: Tensor, reg_x: Tensor) -> Tuple[Tensor, ...]:
        """See the base class.

        Returns:
            Tuple: class logits (N, K, H, W), refined points and first points (N, 18, H, W) in
            float32, y and x of each point in strides from the cell.
        """
        first = at_least_float(self.pts_init(self.pts_init_conv(reg_x).relu()))
        points = first.detach().lerp(first, _OFFSET_GRADIENT)
        logits = self.cls_score(conv_at_points(cls_x, points, self.cls_conv.weight).relu())
        refined = conv_at_points(reg_x, points, self.pts_refine_conv.weight).relu()
        return logits, at_least_float(self.bbox_pred(refined)) + first.detach(), first
