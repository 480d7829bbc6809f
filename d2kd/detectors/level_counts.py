"""How many positives each branch of a detector has, by image and by pyramid level."""

from typing import List, Tuple

import torch
from detectron2.utils import comm
from torch import Tensor

from ..losses.reduce import sum_over_ranks


@torch.no_grad()
def count_positives(positive: Tensor, cells: List[int]) -> Tuple[Tensor, Tensor]:
    """Count over all ranks, which communicate once.

    Args:
        positive: (N, R, B) bool of B branches.
        cells: R_l of each of L levels, R = sum R_l.

    Returns:
        Tuple: (B,) float32, mean over ranks of the sum over images of max(positives, 1), at least
        1, and (B, L) float64, the positives of each level.
    """
    images = positive.sum(1).clamp(min=1).sum(0)
    levels = [x.sum((0, 1)) for x in positive.split(cells, dim=1)]
    sums = sum_over_ranks(torch.stack([images, *levels], 1).float())
    return (sums[:, 0] / comm.get_world_size()).clamp(min=1), sums[:, 1:].double()


def level_of_cells(cells: List[int], device: torch.device) -> Tensor:
    """(R,) long, the level of each cell."""
    levels = torch.arange(len(cells)).repeat_interleave(torch.tensor(cells))
    return levels.to(device, non_blocking=True)
