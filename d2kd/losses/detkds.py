"""Losses of DetKDS (Li et al., ICML 2024, PMLR 235:27399), by the chains that its search found.

N images, C channels, H x W cells of one FPN level. Each is a mean over all values of absolute
differences of normalized maps, in float32 or more; the teacher's map is constant.
"""

from typing import Callable, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from .boxes_on_cells import cells_of_boxes, has_area
from .precision import at_least_float

_TEMPERATURE, _BLOCK, _WINDOW = 0.5, 4, 14


def unit(x: Tensor, *axes: int) -> Tensor:
    """`x` divided by its L2 norm over some axes; 0, with gradient 0, where that is below 1e-12.

    The released code divides by at least 1e-12, which gives values of exactly 0 a gradient of 1e12.
    """
    norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    return x * torch.where(norm > 1e-12, 1 / norm.clamp(min=1e-12), 0)


def channel_scale(x: Tensor) -> Tensor:
    """sqrt(C * softmax over channels of the cells' mean |x| / 0.5), (N, C, 1, 1).

    As an exponential: a share that rounds to 0 has gradient 0, where that of a root is NaN.
    """
    mean = x.abs().mean((2, 3), keepdim=True) / _TEMPERATURE
    return (mean.log_softmax(1) / 2).exp() * x.shape[1] ** 0.5


def global_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance of maps scaled by their own channel attention, pooled, each value of unit norm.

    2 x 2 maxima, with zeros below and to the right of an odd size, normalized **over the images of
    the batch**: at a cell and channel, only the direction of the vector of all images' values
    counts. A single image keeps nothing but its signs, whose gradient is 0.

    Args:
        student, teacher: (N, C, H, W).

    Returns:
        Tensor: scalar in [0, 2].
    """
    return _mean_distance(_pooled, student, teacher)


def _mean_distance(form: Callable[[Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of two maps in a form that has no parameters."""
    with torch.no_grad():
        target = form(at_least_float(teacher))
    return (form(at_least_float(student)) - target).abs().mean()


def _pooled(x: Tensor) -> Tensor:
    padded = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    return unit(F.max_pool2d(padded, 2) * channel_scale(x), 0)


def region_distance(student: Tensor, teacher: Tensor, mask: Tensor, by: str) -> Tensor:
    """Distance of masked maps whose channels or blocks have unit norm.

    Args:
        student, teacher: (N, C, H, W).
        mask: (N, H, W) >= 0; a factor of it as a whole changes nothing.
        by: "channel" normalizes the C values of a cell, "block" the 16 of a channel in 4 x 4 cells,
            with zeros below and to the right where they do not fill the map.

    Returns:
        Tensor: scalar in [0, 2]; 0 where the mask is.
    """
    normalized = {"channel": _by_channel, "block": _by_block}[by]
    return _mean_distance(lambda x: normalized(x * mask[:, None]), student, teacher)


def _by_channel(x: Tensor) -> Tensor:
    return unit(x, 1)


def _by_block(x: Tensor) -> Tensor:
    x = F.pad(x, (0, -x.shape[3] % _BLOCK, 0, -x.shape[2] % _BLOCK))
    return unit(x.unflatten(3, (-1, _BLOCK)).unflatten(2, (-1, _BLOCK)), 3, 5)


def instance_distance(
    student: Tensor,
    teacher: Tensor,
    boxes: Sequence[Tensor],
    stride: int,
    number: Optional[Tensor] = None,
) -> Tensor:
    """Distance of objects, cut out by RoIAlign of 14 x 14, of maps whose cells have unit norm.

    The maps are scaled by their own channel attention first. RoIAlign is linear: that of the
    difference is the difference of two.

    Args:
        student, teacher: (N, C, H, W).
        boxes: (G, 4) of each image, XYXY px, cut to the image; those without area do not count.
        stride: px.
        number: that the sum over objects is divided by, a scalar; None for how many count.

    Returns:
        Tensor: scalar in [0, 2], a mean over the objects of the batch, unless `number` is another;
        0, with gradient 0, without any.
    """
    student, teacher = at_least_float(student), at_least_float(teacher.detach())
    s, t = (unit(x * channel_scale(x), 1) for x in (student, teacher))
    cells = [cells_of_boxes(x, stride).to(s.dtype) for x in boxes]
    cut = roi_align(s - t, cells, _WINDOW, aligned=False)
    counts = has_area(torch.cat(list(boxes)))
    number = counts.sum() if number is None else number
    return (cut.abs().mean((1, 2, 3)) * counts).sum() / number.clamp(min=1)
