"""Losses between boxes."""

import torch
from torch import Tensor


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
    student, teacher = (x if x.dtype.itemsize >= 4 else x.float() for x in (student, teacher))
    teacher = teacher.detach()
    inner = _area(
        torch.maximum(student[..., :2], teacher[..., :2]),
        torch.minimum(student[..., 2:], teacher[..., 2:]),
    )
    union = _area(student[..., :2], student[..., 2:]) + _area(teacher[..., :2], teacher[..., 2:])
    union = (union - inner).clamp(min=eps)
    loss = 1 - inner / union
    if kind == "iou":
        return loss
    outer = _area(
        torch.minimum(student[..., :2], teacher[..., :2]),
        torch.maximum(student[..., 2:], teacher[..., 2:]),
    ).clamp(min=eps)
    return loss + (outer - union) / outer


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)
