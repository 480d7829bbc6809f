"""Sums and norms, and reductions over ranks."""

import functools
import operator
from typing import Any, Iterable

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from .precision import at_least_float


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor, in their order."""
    return functools.reduce(operator.add, terms)


def l2_norm(x: Tensor) -> Tensor:
    """The L2 norm of all values, a scalar, float32 (float64 for float64 input).

    Axis by axis: over millions of values at once the CPU's float32 norm is off by up to 1%.
    """
    x = at_least_float(x)
    while x.dim() > 0:
        x = torch.linalg.vector_norm(x, dim=-1)
    return x


@torch.no_grad()
def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of `x` (any shape, floating) over ranks; `x` itself in a single process."""
    if comm.get_world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / comm.get_world_size()


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of `x` over ranks, differentiable; `x` itself in a single process.

    The gradient on each rank is the sum of all ranks' gradients, so that DDP's average gives the
    gradient of the mean of the ranks' losses.
    """
    return x if comm.get_world_size() == 1 else _Sum.apply(x)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad
