"""Group norm for any number of channels and for maps of one cell."""

import math
from typing import Callable, Union

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

_GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """PyTorch's, which in evaluation too refuses groups of one number.

    A map of one cell with as many channels as groups has these. They become 0 before the affine
    part, as they do in a batch of several images.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        if x.numel() > self.num_groups:
            return super().forward(x)
        groups, cudnn = self.num_groups, torch.backends.cudnn.enabled
        return torch.group_norm(x, groups, self.weight, self.bias, self.eps, cudnn)


def head_norm(name: str) -> Union[str, Callable[[int], nn.Module]]:
    """What Detectron2's heads take as `norm`: GN as 32 groups, or fewer where 32 do not fit."""
    return _group_norm if name == "GN" else name


def build_norm(name: str, channels: int) -> nn.Module:
    """A norm layer, by a name that Detectron2 knows and that is not empty."""
    return get_norm(head_norm(name), channels)


def _group_norm(channels: int) -> nn.Module:
    return GroupNorm(math.gcd(_GROUPS, channels), channels)
