"""The non-local module of Structured KD (Zhang and Ma, ICLR 2021; Wang et al., CVPR 2018)."""

import math
from functools import partial
from typing import Callable, Dict, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.precision import at_least_float, no_autocast


def _batch_norm(kind: Type[nn.Module], channels: int, affine: bool = True) -> nn.Module:
    return kind(channels, affine=affine, track_running_stats=affine)


def _group_norm(channels: int, affine: bool = True) -> nn.Module:
    return nn.GroupNorm(math.gcd(32, channels), channels, affine=affine)


NORMS: Dict[str, Callable[..., nn.Module]] = {
    "BN": partial(_batch_norm, nn.BatchNorm2d),
    "SyncBN": partial(_batch_norm, nn.SyncBatchNorm),
    "GN": _group_norm,
}
"""Norms of a number of channels by name, each with `affine`, whether it has a scale and shift, and
batch norms statistics to keep; SyncBN across ranks needs GPUs."""

_POOLS = (8, 4, 2)


def non_local_product(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """sum_j (theta_i . phi_j) g_j / K, in the order of products that costs less.

    (g phi^T) theta, by way of a d x d matrix, takes (M + K) d^2 multiplications and is the one for
    all but the smallest maps; g (phi^T theta), by way of a K x M matrix, takes 2 M K d. Sums run in
    float32 or more, outside autocast.

    Args:
        theta: (N, d, M) queries.
        phi: (N, d, K) keys.
        g: (N, d, K) values.

    Returns:
        Tensor: (N, d, M), float32 (float64 for float64 input).
    """
    (width, queries), keys = theta.shape[1:], phi.shape[2]
    with no_autocast(theta):
        theta, phi, g = (at_least_float(x) for x in (theta, phi, g))
        phi = phi.transpose(1, 2) / keys
        if 2 * queries * keys < (queries + keys) * width:
            return g @ (phi @ theta)
        return (g @ phi) @ theta


class NonLocal(nn.Module):
    """x + norm(W y), where y gathers values of all cells by dot products with the cell's query.

    With 1x1 convolutions theta, phi, g to `hidden` channels and phi, g max-pooled to K keys,
    y_i = 1/K sum_j (theta_i . phi_j) g_j. There is no softmax, so that the products may be taken in
    any order, and no matrix over pairs of cells of a large map is formed. The norm starts at scale
    and shift 0: the module starts as the identity, and its convolutions move once the scale has.
    y grows with the cube of x, more than float16 holds; from the products to the norm float32 does.

    Ours: a pooling window larger than the map is cut to the map; GN has up to 32 groups, as many as
    divide the width. Batch statistics need more than one value per channel. One image is enough
    wherever H * W > 1, and for one image of one cell the norm sees the value twice and gives its
    shift, which starts at 0.
    """

    product = staticmethod(non_local_product)

    def __init__(self, channels: int, hidden: int, pool: int, norm: str = "BN") -> None:
        """Build the layers.

        Args:
            channels: C of input and output.
            hidden: d, width of queries, keys and values.
            pool: side of the pooling window over keys and values, cells; no padding.
            norm: "BN", "SyncBN" (GPUs only where there are several ranks) or "GN".
        """
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, hidden, 1) for _ in range(3))
        self.out = nn.Conv2d(hidden, channels, 1)
        self.norm = NORMS[norm](channels)
        self.pool = pool
        for parameter in self.norm.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), in autocast float32."""
        theta = self.theta(x)
        phi, g = (pooled(conv(x), self.pool) for conv in (self.phi, self.g))
        y = self.product(theta.flatten(2), phi, g).view_as(theta)
        with no_autocast(y):
            return x + normalized(self.norm, self.out(y))


def pooled(x: Tensor, side: int) -> Tensor:
    """Largest values in windows of `side` cells, cut to the map: (N, C, H, W) -> (N, C, K)."""
    return F.max_pool2d(x, [min(side, n) for n in x.shape[2:]]).flatten(2)


def normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm` of a map (N, C, H, W); one image of one cell is seen twice, for batch norm."""
    return norm(x) if x[:, 0].numel() > 1 else norm(torch.cat([x, x]))[:1]


def build_non_local(level: int, channels: int, norm: str) -> NonLocal:
    """Width d and pooling window by level index from the finest, whatever its stride.

    Released for C = 256: d 64, 64, 128, 128, 128 and windows 8, 4, 2, 2, 2. For other widths
    (ours) d is min(64, C / 2) on the first two levels and C / 2 after them.

    Args:
        level: index of the level, 0 the finest.
        channels: C.
        norm: see `NonLocal`.
    """
    half = max(channels // 2, 1)
    return NonLocal(channels, min(64, half) if level < 2 else half, _POOLS[min(level, 2)], norm)
