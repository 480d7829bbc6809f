"""Layers that compute as INT8 does: their inputs, weights and outputs are rounded.

A layer gets a class derived from its own, as `torch.nn.utils.parametrize` does it. So it stays the
object that its detector holds, under the same names, and its weights stay in float32.
"""

from functools import cache
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn

LEVELS, STEPS = 255, 127
"""Activations are rounded to 0..LEVELS, weights to -STEPS..STEPS."""
_LEAST_PART = 0.01  # of a batch, in the average of the ranges
_SMALLEST = 1e-8  # step between two values
RANGES = "input_range", "output_range"


class Range(nn.Module):
    """Rounds a tensor to 8 bits in a range that it measures while it is trained.

    The range is the mean of the batches' minima and maxima so far, from the hundredth on a moving
    average, and holds 0. Its buffers are no part of the state dict, see `d2kd.quantize.state`.

    Attributes:
        low, high: () float32, at most and at least 0.
        seen: () float32, batches that were measured.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self) -> None:
        """A range that has seen nothing."""
        super().__init__()
        self.fixed: Tuple[float, int] | Tuple[()] = ()
        for name in ("low", "high", "seen"):
            self.register_buffer(name, torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float values of any shape, rounded; their gradient passes within the range."""
        x = x.float()
        if self.fixed:
            return torch.fake_quantize_per_tensor_affine(x, *self.fixed, 0, LEVELS)
        if self.training and x.numel():
            self.measure(x)
        return torch.fake_quantize_per_tensor_affine(x, *self.grid(), 0, LEVELS)

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Take a batch into the range; one with values that are not finite changes nothing."""
        low, high = torch.aminmax(x)
        part = (1 / (self.seen + 1)).clamp(min=_LEAST_PART) * torch.isfinite(high - low)
        for old, new in ((self.low, low.clamp(max=0)), (self.high, high.clamp(min=0))):
            old.lerp_(torch.nan_to_num(new, 0.0, 0.0, 0.0), part)
        self.seen.add_(part > 0)

    def fix(self) -> None:
        """Let the range be a constant, for a graph of it."""
        step, zero = self.grid()
        self.fixed = step.item(), int(zero.item())

    def grid(self) -> Tuple[Tensor, Tensor]:
        """The step between two values, and the whole number in 0..LEVELS that stands for 0."""
        step = ((self.high - self.low) / LEVELS).clamp(min=_SMALLEST)
        return step, (-self.low / step).round().clamp(0, LEVELS).int()


def steps_of(weight: Tensor) -> Tensor:
    """Steps (C',) between the rounded values of a convolution's weight (C', C, h, w).

    They are symmetric and follow the largest value of a channel, so that a factor on a channel,
    such as batch norm's, changes the step and no rounded value.
    """
    return (weight.detach().abs().amax((1, 2, 3)) / STEPS).clamp(min=_SMALLEST)


def round_weight(weight: Tensor, steps: Tensor) -> Tensor:
    """A convolution's weight (C', C, h, w), each of its C' channels rounded to 8 bits."""
    zeros = torch.zeros_like(steps)  # in float: PyTorch checks whole ones on the host, which waits
    return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -STEPS - 1, STEPS)


class QuantizedLayer(nn.Module):
    """In front of the class of a layer with one input: ranges of that and of the output.

    Attributes:
        rounds: whether values are rounded; the layer is the float one otherwise, bit by bit.
    """

    rounds: bool

    def forward(self, x: Tensor) -> Any:
        """As the layer's class has it."""
        if not self.rounds:
            return super().forward(x)
        ranges: Any = self._modules
        before, behind = (ranges.get(name) for name in RANGES)
        x = super().forward(x if before is None else before(x))
        return x if behind is None else behind(x)


class QuantizedConv(QuantizedLayer):
    """The same of a convolution, whose weight is rounded where it is read."""

    @property
    def weight(self) -> Any:
        """(C', C, h, w)."""
        kept: Any = self._parameters["weight"]
        if not self.rounds:
            return kept
        steps = self._buffers.get("steps")
        if steps is None:
            return round_weight(kept, steps_of(kept))
        zeros = torch.zeros_like(steps, dtype=torch.int32)  # as files of graphs have them
        return torch.fake_quantize_per_channel_affine(kept, steps, zeros, 0, -STEPS - 1, STEPS)

    def fix(self) -> None:
        """Keep the steps of the weight as it is, which will not change."""
        kept: Any = self._parameters["weight"]
        self.register_buffer("steps", steps_of(kept), persistent=False)


@cache
def _derived(front: Any, cls: Any) -> Any:
    return type(f"Quantized{cls.__name__}", (front, cls), {"__module__": front.__module__})


def quantize_layer(layer: nn.Module, ranges: List[str]) -> None:
    """Change a layer in place; it does not round yet.

    Args:
        layer: a convolution, or a layer that has one input.
        ranges: those of `RANGES` that it gets; a second call may add some.
    """
    if not isinstance(layer, QuantizedLayer):
        cls: Any = type(layer)
        layer.__class__ = _derived(
            QuantizedConv if issubclass(cls, nn.Conv2d) else QuantizedLayer, cls
        )
        setattr(layer, "rounds", False)  # noqa: B010
    place = next((x.device for x in (*layer.parameters(), *layer.buffers())), None)
    for name in ranges:
        layer.add_module(name, Range().to(place))
