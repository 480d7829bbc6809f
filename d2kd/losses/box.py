"""Losses between boxes."""

from typing import Tuple

import torch
from torch import Tensor

from .precision import at_least_float


def box_iou_loss(student: Tensor, teacher: Tensor, kind: str = "giou", eps: float = 1e-6) -> Tensor:
    """1 - IoU or 1 - GIoU of paired boxes.

    torchvision's and fvcore's GIoU losses wait for the GPU (a boolean index, an assertion on
    values); this one does not. Boxes of zero size are fine: two of them have IoU 0.

    Args:
        student: (..., 4) XYXY boxes, any unit.
        teacher: (..., 4) XYXY boxes of the same unit, constant.
        kind: "giou" (range [0, 2]) or "iou" (range [0, 1]).
        eps: floor of union and enclosing area, in squared units.

    Returns:
        Tensor: (...) loss of each pair, float32 (float64 for float64 input).

    Raises:
        ValueError: another `kind`.
    """
    if kind not in ("giou", "iou"):
        raise ValueError(f"kind must be 'giou' or 'iou', not {kind!r}")
    student, teacher = at_least_float(student), at_least_float(teacher.detach())
    inner, union = intersection_and_union(student, teacher, eps)
    loss = 1 - inner / union
    if kind == "iou":
        return loss
    outer = box_area(
        torch.minimum(student[..., :2], teacher[..., :2]),
        torch.maximum(student[..., 2:], teacher[..., 2:]),
    ).clamp(min=eps)
    return loss + (outer - union) / outer


def intersection_and_union(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tuple[Tensor, Tensor]:
    """Areas of intersection and union, the latter at least `eps`, of broadcast XYXY boxes.

    At least float32: the area of an image is more than float16 holds.
    """
    a, b = at_least_float(a), at_least_float(b)
    inner = box_area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = box_area(a[..., :2], a[..., 2:]) + box_area(b[..., :2], b[..., 2:]) - inner
    return inner, union.clamp(min=eps)


def centers(boxes: Tensor) -> Tensor:
    """Centers (..., 2) of XYXY boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def side_distances(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., 4) l, t, r, b from the centers of `anchors` to the sides of `boxes`, XYXY."""
    center = centers(anchors)
    return torch.cat([center - boxes[..., :2], boxes[..., 2:] - center], -1)


def boxes_around(anchors: Tensor, distances: Tensor) -> Tensor:
    """XYXY boxes (..., 4) from the centers of `anchors`, XYXY, and the distances l, t, r, b."""
    center = centers(anchors)
    return torch.cat([center - distances[..., :2], center + distances[..., 2:]], -1)


def box_area(low: Tensor, high: Tensor) -> Tensor:
    """Area between corners (..., 2), at least float32; 0 where they are out of order."""
    return (at_least_float(high) - at_least_float(low)).clamp(min=0).prod(-1)
