"""Weights of pyramid levels from how many positives they have had (DDOD, arXiv 2107.02963)."""

import torch
from torch import Tensor


@torch.no_grad()
def level_factors(counts: Tensor) -> Tensor:
    """2 - (c - min c) / (max c - min c + 1e-10) of each level's count c.

    The level of most positives gets 1, that of fewest 2; where all have equally many, all get 2.

    Args:
        counts: (..., L) positives of L levels, floating and at least 0.

    Returns:
        Tensor: (..., L) in [1, 2].
    """
    low, high = counts.amin(-1, keepdim=True), counts.amax(-1, keepdim=True)
    return 2 - (counts - low) / (high - low + 1e-10)
