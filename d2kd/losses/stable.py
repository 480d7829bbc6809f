"""Logarithms near 1, by log and exp.

torch's log1p, and with it softplus, logsigmoid, logaddexp and the binary cross-entropies, takes a
CPU ten times as long as log and exp do.
"""

from typing import Any

import torch
from torch import Tensor


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), accurate for any x; log(sigmoid(x)) is -softplus(-x)."""
    return _Softplus.apply(x)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return log1p(x.abs().neg_().exp_()).add_(x.clamp(min=0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ctx.saved_tensors[0].sigmoid().mul_(grad)


@torch.no_grad()
def log1p(x: Tensor) -> Tensor:
    """log(1 + x) of x > -1, without gradient: what rounding 1 + x adds is taken off again."""
    rounded = x + 1
    added = (rounded - 1).sub_(x).div_(rounded)
    return rounded.log_().sub_(added)
