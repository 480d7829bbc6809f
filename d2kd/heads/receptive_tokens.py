"""The receptive tokens of MasKD: as they are learnt, and as they are used."""

import math
from typing import NamedTuple, Tuple, cast

import torch
from torch import Tensor, nn

from ..losses.maskd import dice, pooled_convolution, token_masks, weighted_mask
from ..losses.precision import no_autocast


class LevelTokens(nn.Module):
    """T tokens of a level of C channels, and the layers that weigh their masks, as published."""

    def __init__(self, channels: int, number: int) -> None:
        """Draw them: tokens of deviation 0.01, so that every mask starts near one half."""
        super().__init__()
        self.tokens = nn.Parameter(0.01 * torch.randn(number, channels))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Linear(channels, number)
        for layer, fan_out in ((self.conv, 9 * channels), (self.mix, number)):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """The map under the weighted masks, and how much these overlap.

        Args:
            x: (N, C, H, W), constant.

        Returns:
            Tuple: (N, C, H, W), float32 at least, and `dice`, a scalar.
        """
        masks = token_masks(x, self.tokens)
        pooled = pooled_convolution(x, self.conv.weight, cast(Tensor, self.conv.bias))
        with no_autocast(x):
            weights = self.mix(pooled).softmax(1)
        return x * weighted_mask(masks, weights)[:, None], dice(masks)

    @torch.no_grad()
    def learnt(self) -> "Tokens":
        """What they are once they are learnt, folded in float64."""
        mix, conv = self.mix.weight.double(), self.conv.weight.double()
        kernel = torch.einsum("td,dcuv->tcuv", mix, conv)
        bias = mix @ cast(Tensor, self.conv.bias).double() + self.mix.bias.double()
        return Tokens(self.tokens.detach(), kernel.float(), bias.float())


class Tokens(NamedTuple):
    """Learnt tokens (T, C) of a level, and the layers behind p: `kernel` (T, C, 3, 3), `bias` (T).

    The linear layer is multiplied into the convolution: 9 T C numbers instead of 9 C^2 and more.
    """

    tokens: Tensor
    kernel: Tensor
    bias: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether the shapes belong together."""
        number, channels = self.tokens.shape if self.tokens.dim() == 2 else (0, 0)
        shapes = tuple(self.kernel.shape), tuple(self.bias.shape)
        return number > 0 and shapes == ((number, channels, 3, 3), (number,))


class ConstantTokens(nn.Module):
    """Learnt tokens of a level as buffers."""

    tokens: Tensor
    kernel: Tensor
    bias: Tensor

    def __init__(self, learnt: Tokens) -> None:
        """Keep them."""
        super().__init__()
        for name, x in learnt._asdict().items():
            self.register_buffer(name, x)

    def masks(self, x: Tensor) -> Tensor:
        """Of a map (N, C, H, W): (N, T, H, W)."""
        return token_masks(x, self.tokens)

    def weights(self, x: Tensor, alike: bool = False) -> Tensor:
        """The masks' p, (N, T), from a map (N, C, H, W); 1 / T each where they count `alike`."""
        logits = pooled_convolution(x, self.kernel, self.bias)
        return (logits * 0 if alike else logits).softmax(1)
