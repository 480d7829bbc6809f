"""A teacher's output on its way to another process, device or stream."""

import copy
from functools import singledispatch
from typing import Any, Callable

import torch
from detectron2.structures import Boxes, ImageList
from torch import Tensor
from torch.utils._pytree import tree_map

from .output import DenseMaps, DetectorOutput

Function = Callable[[Tensor], Tensor]


def map_tensors(output: DetectorOutput, function: Function) -> DetectorOutput:
    """A copy whose tensors are what a function makes of those of an output without regions.

    Args:
        output: a teacher's, before `add_regions`.
        function: a tensor of the same shape from a tensor.
    """
    out = copy.copy(output)
    for name, value in vars(output).items():
        if name != "adapter":
            out.__dict__[name] = tree_map(lambda x: _mapped(x, function), value)
    return out


def packed(output: DetectorOutput) -> DetectorOutput:
    """A copy without the adapter and the pixels, whose shape alone is kept, for a process.

    `adapter` has to be set on what arrives.
    """
    out = copy.copy(output)
    shape, sizes = output.images.tensor.shape, output.images.image_sizes
    out.images = ImageList(output.images.tensor.new_zeros(()).expand(shape), sizes)
    out.__dict__["adapter"] = None
    return out


@singledispatch
def _mapped(value: Any, _function: Function) -> Any:
    """What holds no tensor."""
    return value


@_mapped.register
def _(value: torch.Tensor, function: Function) -> Tensor:
    return function(value)


@_mapped.register
def _(value: Boxes, function: Function) -> Boxes:
    return Boxes(function(value.tensor))


@_mapped.register
def _(value: ImageList, function: Function) -> ImageList:
    return ImageList(function(value.tensor), value.image_sizes)


@_mapped.register
def _(value: DenseMaps, function: Function) -> DenseMaps:
    logits, deltas = (tree_map(function, part) for part in (value.logits, value.deltas))
    return DenseMaps(logits, deltas)
