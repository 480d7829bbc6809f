"""What heads of dense detectors share: a class tower and a box tower for all levels."""

import math
from typing import List, Tuple

from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from .norm import build_norm


class TowerHead(nn.Module):
    """Class and box towers shared by all levels; a subclass predicts from them.

    Towers are conv-norm-ReLU blocks in the layout of Detectron2's RetinaNetHead, without bias where
    they are normalized.
    """

    def __init__(
        self,
        *,
        input_shape: List[ShapeSpec],
        num_convs: int = 4,
        norm: str = "GN",
        conv_bias: bool = False,
    ) -> None:
        """Build the towers.

        Args:
            input_shape: one per level, all of the same number of channels C.
            num_convs: blocks of each tower.
            norm: norm of the towers, see `build_norm`.
            conv_bias: give normalized convolutions a bias too.
        """
        super().__init__()
        width = input_shape[0].channels
        self.cls_subnet = _tower(width, num_convs, norm, conv_bias)
        self.bbox_subnet = _tower(width, num_convs, norm, conv_bias)

    def predict(self, level: int, cls_x: Tensor, reg_x: Tensor) -> Tuple[Tensor, ...]:
        """Predict on one level from the outputs of both towers.

        Args:
            level: index of the level, finest first.
            cls_x, reg_x: (N, C, H, W).

        Returns:
            Tuple: maps (N, D, H, W), class logits (D = K) and box prediction first.
        """
        raise NotImplementedError

    def forward(self, features: List[Tensor]) -> List[List[Tensor]]:
        """Run all levels.

        Args:
            features: one (N, C, H, W) per level, finest first.

        Returns:
            List: for each kind of prediction, its maps by level.
        """
        levels = [
            self.predict(level, self.cls_subnet(x), self.bbox_subnet(x))
            for level, x in enumerate(features)
        ]
        return [list(maps) for maps in zip(*levels, strict=True)]


def initialize_convs(module: nn.Module) -> None:
    """Set every convolution to N(0, 0.01) with bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def start_at_prior(conv: nn.Conv2d, prior_prob: float) -> None:
    """Set the bias of class logits so that their sigmoid is `prior_prob`, in (0, 1)."""
    nn.init.constant_(conv.get_parameter("bias"), -math.log((1 - prior_prob) / prior_prob))


def _tower(width: int, num_convs: int, norm: str, conv_bias: bool) -> nn.Sequential:
    layers: List[nn.Module] = []
    for _ in range(num_convs):
        layers.append(nn.Conv2d(width, width, 3, padding=1, bias=conv_bias or not norm))
        layers += [build_norm(norm, width)] if norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
