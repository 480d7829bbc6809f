"""Heads of dense detectors with bias-free towers and a learned scale of the boxes per level."""

from types import MappingProxyType
from typing import Any, List, Mapping, Optional, Tuple

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..losses.precision import at_least_float
from .quality import build_quality_predictor
from .towers import TowerHead, initialize_convs, start_at_prior


class Scale(nn.Module):
    """A learned factor, 1 at the start."""

    def __init__(self) -> None:
        """Create the parameter `scale`, of no dimension."""
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply; any shape."""
        return x * self.scale


class AnchorPointHead(TowerHead):
    """A class logit map and a box prediction per cell, from 3x3 convolutions.

    All convolutions start at N(0, 0.01), as ATSS and GFL do.
    """

    def __init__(
        self,
        *,
        input_shape: List[ShapeSpec],
        num_classes: int,
        box_dim: int,
        prior_prob: float = 0.01,
        **towers: Any,
    ) -> None:
        """Build towers and predictors.

        Args:
            input_shape: one per level, all of the same number of channels C.
            num_classes: K.
            box_dim: channels of the box prediction.
            prior_prob: class probability at the start, in (0, 1).
            towers: see `TowerHead`.
        """
        super().__init__(input_shape=input_shape, **towers)
        width = input_shape[0].channels
        self.cls_score = nn.Conv2d(width, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(width, box_dim, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in input_shape)
        initialize_convs(self)
        start_at_prior(self.cls_score, prior_prob)

    def predict(self, level: int, cls_x: Tensor, reg_x: Tensor) -> Tuple[Tensor, ...]:
        """See the base class; boxes are in float32, and a subclass may add a map."""
        return self.cls_score(cls_x), self.scales[level](at_least_float(self.bbox_pred(reg_x)))


class ATSSHead(AnchorPointHead):
    """Adds the centerness (or IoU) logit, predicted from the box tower; box deltas are 4 wide."""

    def __init__(self, *, input_shape: List[ShapeSpec], **kwargs: Any) -> None:
        """See the base class."""
        super().__init__(input_shape=input_shape, box_dim=4, **kwargs)
        self.ctrness = nn.Conv2d(input_shape[0].channels, 1, 3, padding=1)
        initialize_convs(self.ctrness)

    def predict(self, level: int, cls_x: Tensor, reg_x: Tensor) -> Tuple[Tensor, ...]:
        """See the base class; adds (N, 1, H, W)."""
        return *super().predict(level, cls_x, reg_x), self.ctrness(reg_x)


class ScaledFCOSHead(AnchorPointHead):
    """FCOS's head with a learned scale per level, as its authors and mmdetection have it.

    Predicts distances in strides, which Detectron2's FCOS clamps at 0.
    """

    def __init__(
        self,
        *,
        strides: List[int],
        box_activation: str = "relu",
        ctrness_on: str = "bbox",
        **kwargs: Any,
    ) -> None:
        """Build the head.

        Args:
            strides: of the levels, px.
            box_activation: "relu", or "exp" for logarithms of distances in px.
            ctrness_on: tower that centerness is predicted from, "bbox" or "cls".
            kwargs: see the base class.
        """
        super().__init__(box_dim=4, **kwargs)
        self.strides, self.exp, self.on_cls = strides, box_activation == "exp", ctrness_on == "cls"
        self.ctrness = nn.Conv2d(self.cls_score.in_channels, 1, 3, padding=1)
        initialize_convs(self.ctrness)

    def predict(self, level: int, cls_x: Tensor, reg_x: Tensor) -> Tuple[Tensor, ...]:
        """See the base class; adds (N, 1, H, W)."""
        logits, boxes = super().predict(level, cls_x, reg_x)
        if self.exp:
            boxes = boxes.exp() / self.strides[level]
        return logits, boxes, self.ctrness(cls_x if self.on_cls else reg_x)


class GFLHead(AnchorPointHead):
    """Box sides as distributions; with a quality predictor, its logit too."""

    def __init__(
        self,
        *,
        reg_max: int = 16,
        quality: Optional[str] = None,
        quality_options: Mapping[str, Any] = MappingProxyType({}),
        **kwargs: Any,
    ) -> None:
        """Build the head.

        Args:
            reg_max: last bin.
            quality: name in `QUALITY_PREDICTOR_REGISTRY`, None for plain GFL.
            quality_options: of the predictor's constructor.
            kwargs: see the base class.
        """
        super().__init__(box_dim=4 * (reg_max + 1), **kwargs)
        self.reg_conf = None
        if quality:
            self.reg_conf = build_quality_predictor(quality, reg_max, quality_options)

    def predict(self, level: int, cls_x: Tensor, reg_x: Tensor) -> Tuple[Tensor, ...]:
        """See the base class; adds the quality logit (N, 1, H, W) if there is a predictor."""
        logits, distributions = super().predict(level, cls_x, reg_x)
        if self.reg_conf is None:
            return logits, distributions
        return logits, distributions, self.reg_conf(distributions)
