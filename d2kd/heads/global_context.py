"""The global context block that FGD relates the cells of a map by (Cao et al., ICCVW 2019)."""

import torch
from torch import Tensor, nn

from ..losses.precision import at_least_float, no_autocast


class GlobalContext(nn.Module):
    """What a global context block adds to every cell of a map.

    W2 ReLU(LN(W1 x^ + b1)) + b2 with the context x^ = sum_p softmax_p(v . x_p) x_p, W1 to half the
    channels and W2 back, 0 at the start. The published v has a bias, which a softmax takes no
    notice of: its gradient is always 0, so there is none here. In float32, outside autocast.
    """

    def __init__(self, channels: int) -> None:
        """Build the layers for maps of C channels."""
        super().__init__()
        half = max(channels // 2, 1)
        self.weigh = nn.Conv2d(channels, 1, 1, bias=False)
        self.reduce, self.norm = nn.Linear(channels, half), nn.LayerNorm(half)
        self.restore = nn.Linear(half, channels)
        nn.init.kaiming_normal_(self.weigh.weight, nonlinearity="relu")
        nn.init.zeros_(self.restore.weight)
        nn.init.zeros_(self.restore.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C)."""
        with no_autocast(x):
            x = at_least_float(x).flatten(2)
            weight = (self.weigh.weight.flatten(1) @ x).softmax(2)
            context = torch.matmul(x, weight.transpose(1, 2))[..., 0]
            return self.restore(self.norm(self.reduce(context)).relu())
