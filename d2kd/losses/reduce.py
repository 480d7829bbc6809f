"""Reductions over ranks."""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


@torch.no_grad()
def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of `x` (any shape, floating) over ranks; `x` itself in a single process."""
    if comm.get_world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / comm.get_world_size()
