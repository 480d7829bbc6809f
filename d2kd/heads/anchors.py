"""Predictions of all levels in line."""

from typing import Dict

import torch
from torch import Tensor


def by_anchor(levels: Dict[int, Tensor]) -> Tensor:
    """Maps by stride, (N, HWA, ...), as one tensor (N, R, ...)."""
    return torch.cat(list(levels.values()), dim=1)


def at_anchors(levels: Dict[int, Tensor], image: Tensor, cell: Tensor) -> Tensor:
    """Rows (n, ...) of `by_anchor(levels)[image, cell]`, without a copy of all maps."""
    rows, start, level = [], 0, torch.full_like(cell, -1)
    for x in levels.values():
        level = level + (cell >= start)
        index = image * x.shape[1] + (cell - start).clamp(0, x.shape[1] - 1)
        rows.append(x.flatten(0, 1).index_select(0, index))
        start += x.shape[1]
    index = level * len(cell) + torch.arange(len(cell), device=cell.device)
    return torch.cat(rows).index_select(0, index)
