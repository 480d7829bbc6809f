"""Which cells of a feature map lie on the objects of an image, and what each weighs (FGD).

Yang et al., CVPR 2022 (arXiv 2111.11837). N images, H x W cells of a level. Results are float32 or
more.
"""

from typing import Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .precision import at_least_float

_BITS = 62  # boxes in an int64, whose sign and one bit more stay 0


@torch.no_grad()
def clip_to_image(boxes: Tensor, size: Tuple[int, int]) -> Tensor:
    """Boxes (G, 4), XYXY px, cut to an image of this height and width (px)."""
    (height, width), boxes = size, at_least_float(boxes)
    x, y = (boxes[:, i::2].clamp(min=0).clamp(max=limit) for i, limit in enumerate((width, height)))
    return torch.stack([x, y], -1).flatten(1)


def cells_of_boxes(boxes: Tensor, stride: int) -> Tensor:
    """First and last column and row of boxes: floor of the first corner, ceil of the second.

    As published, so that a box inside one cell covers 2 x 2 and one at the right or lower border
    may end a cell outside of the map.

    Args:
        boxes: (..., 4) XYXY px.
        stride: px.

    Returns:
        Tensor: (..., 4) XYXY in cells, whole numbers, the last ones inclusive.
    """
    cells = at_least_float(boxes) / stride
    return torch.cat([cells[..., :2].floor(), cells[..., 2:].ceil()], -1)


def has_area(boxes: Tensor) -> Tensor:
    """Which boxes (..., 4) have an area; bool (...)."""
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)


@torch.no_grad()
def foreground_weights(boxes: Sequence[Tensor], stride: int, size: Tuple[int, int]) -> Tensor:
    """At each cell 1 / cells of the smallest box that covers it, 0 outside of all.

    Boxes are sorted by weight and get a bit each, so that the lowest bit that a cell's row and
    column share is its heaviest box: memory and time are those of one map for each 62 boxes.

    Args:
        boxes: (G, 4) of each image, any number, XYXY px, cut to the image (`clip_to_image`). Those
            without area weigh 0.
        stride: px.
        size: H, W.

    Returns:
        Tensor: (N, H, W) in [0, 1].
    """
    words = max(-(-max(map(len, boxes)) // _BITS), 1)
    padded = pad_sequence(list(boxes), batch_first=True)
    padded = F.pad(padded, (0, 0, 0, words * _BITS - padded.shape[1]))
    cells = cells_of_boxes(padded, stride)
    extent = (cells[..., 2:] - cells[..., :2] + 1).prod(-1)
    weight, order = (has_area(padded) / extent).sort(dim=1, descending=True)
    cells = cells.gather(1, order[..., None].expand(-1, -1, 4)).unflatten(1, (words, _BITS))
    rows, columns = (_covered(cells[..., i::2], size[1 - i]) for i in (1, 0))
    shared = rows[..., None] & columns[..., None, :]
    lowest = torch.frexp((shared & -shared).double()).exponent  # 0 without a bit, else 1 and more
    table = F.pad(weight.unflatten(1, (words, _BITS)), (1, 0))
    return table.gather(2, lowest.flatten(2).long()).amax(1).unflatten(1, size)


def background_weights(foreground: Tensor) -> Tensor:
    """1 / cells of background where `foreground_weights` (N, H, W) are 0, 0 elsewhere."""
    outside = (foreground == 0).type_as(at_least_float(foreground))
    return outside / outside.sum((1, 2), keepdim=True).clamp(min=1)


def _covered(ends: Tensor, length: int) -> Tensor:
    """Bit k of (N, words, length) is set in the cells of an axis from first to last of box k.

    `ends` (N, words, bits, 2) are these two.
    """
    cell, bit = (torch.arange(n, device=ends.device) for n in (length, _BITS))
    inside = (cell >= ends[..., :1]) & (cell <= ends[..., 1:])
    return (inside * (torch.ones_like(bit) << bit)[:, None]).sum(2)
