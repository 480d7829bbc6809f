"""Padding of a batch, and cutting a detector's maps to what another one's padding leaves."""

import copy
import math
from typing import Dict, List, Sequence, Tuple

import torch
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, ImageList
from torch import Tensor

from .output import DenseMaps, DetectorOutput

Size = Tuple[int, int]
_CONSTRAINTS = "size_divisibility", "size_divisiblity"  # the second is Detectron2's own, of ViTDet
_BEYOND_SQUARE = 32  # px
_MAPS = "features", "logits", "deltas", "scores", "distributions", "quality", "valid"


def backbone_divisor(backbone: Backbone) -> int:
    """What the sides of a backbone's images are multiples of, px; 1 for any."""
    constraints = backbone.padding_constraints
    known = [backbone.size_divisibility, *(constraints.get(key, 0) for key in _CONSTRAINTS)]
    return next((step for step in known if step > 0), 1)


def square_side(backbone: Backbone) -> int:
    """Side of the square that a backbone's images are padded to, px; 0 for none."""
    return int(backbone.padding_constraints.get("square_size", 0))


def cuts_at(backbone: Backbone, longest: float) -> int:
    """The square (px) at which stock inference cuts images with such a side off; 0 for none."""
    side = square_side(backbone)
    return side if side < longest else 0


def pad(images: List[Tensor], divisor: int, backbone: Backbone) -> ImageList:
    """Pad normalized images as a backbone was trained to see them.

    Below and to the right, to the largest of the batch rounded up to `divisor`. A backbone with a
    square, such as ViTDet's, gets that square; where an image is larger, the smallest one that
    holds all of them, which stock Detectron2 would cut or stop at.

    Args:
        images: (3, H, W), of any sizes.
        divisor: the padded height and width are multiples of it, px.
        backbone: says whether there is a square.
    """
    square = square_side(backbone)
    if square > 0:
        largest = max(max(x.shape[-2:]) for x in images)
        if largest > square:
            square, divisor = largest, math.lcm(divisor, _BEYOND_SQUARE)
    return ImageList.from_tensors(images, divisor, padding_constraints={"square_size": square})


def padded_size(images: Sequence[Tensor], divisor: int) -> Size:
    """Height and width (px) that a batch of images (..., H, W) has without a square."""
    sides = zip(*(x.shape[-2:] for x in images), strict=True)
    height, width = (-(-max(side) // divisor) * divisor for side in sides)
    return height, width


def crop(output: DetectorOutput, size: Size) -> DetectorOutput:
    """The maps and anchors of the upper left part of the padded batch, where the images are.

    Args:
        output: of a batch that is padded to at least `size`.
        size: height and width, px.

    Returns:
        `output` itself where it is of that size. Otherwise a copy, whose `whole` has all cells of
        its features.
    """
    if tuple(output.images.tensor.shape[-2:]) == size:
        return output
    cells = {
        s: ((x.shape[2], x.shape[3]), (-(-size[0] // s), -(-size[1] // s)))
        for s, x in output.features.items()
    }
    out = copy.copy(output)
    out.whole = output.features
    for field in _MAPS:
        setattr(out, field, _cut_all(getattr(output, field), cells))
    for field in ("cls_taps", "reg_taps"):
        taps = getattr(output, field)
        setattr(out, field, {s: [_cut(x, *cells[s]) for x in v] for s, v in taps.items()})
    out.anchors = {s: Boxes(_cut(x.tensor[None], *cells[s])[0]) for s, x in output.anchors.items()}
    if hasattr(output, "rpn"):
        rpn = output.rpn
        out.rpn = DenseMaps(_cut_all(rpn.logits, cells), _cut_all(rpn.deltas, cells))
    return out


def valid_cells(
    images: ImageList, maps: Dict[int, Tensor], divisor: int, num_anchors: int
) -> Dict[int, Tensor]:
    """Mark the anchors that lie on an image rather than on batch padding.

    A cell (y, x) of stride s is valid when y < ceil(h / s) and x < ceil(w / s), with the image's
    own height h and width w rounded up to the detector's size divisibility.

    Args:
        images: the padded batch.
        maps: stride -> (N, C, H, W).
        divisor: size divisibility of the detector in px; 0 or 1 for none.
        num_anchors: A.

    Returns:
        Dict[int, Tensor]: stride -> (N, HWA) bool.
    """
    step = max(divisor, 1)
    sizes = torch.tensor([[-(-s // step) * step for s in size] for size in images.image_sizes])
    sizes = sizes.to(images.device, non_blocking=True)
    valid = {}
    for stride, x in maps.items():
        rows = torch.arange(x.shape[2], device=x.device) * stride < sizes[:, :1]
        columns = torch.arange(x.shape[3], device=x.device) * stride < sizes[:, 1:]
        cells = (rows[:, :, None] & columns[:, None, :]).flatten(1)
        valid[stride] = cells.repeat_interleave(num_anchors, dim=1)
    return valid


def _cut_all(maps: Dict[int, Tensor], cells: Dict[int, Tuple[Size, Size]]) -> Dict[int, Tensor]:
    return {stride: _cut(x, *cells[stride]) for stride, x in maps.items()}


def _cut(x: Tensor, has: Size, wants: Size) -> Tensor:
    """The first rows and columns of maps (N, C, H, W), or of their cells in line, (N, HWA, ...)."""
    (height, width), (rows, columns) = has, wants
    if x.dim() == 4 and tuple(x.shape[2:]) == has:
        return x[..., :rows, :columns].clone()
    return x.unflatten(1, (height, width, -1))[:, :rows, :columns].flatten(1, 3)
