"""Losses between class predictions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_distillation_loss(
    student: Tensor, teacher: Tensor, weight: Tensor, beta: float = 1.0
) -> Tensor:
    """Binary cross-entropy with soft targets, weighted by the gap (BCKD, ICCV 2023, eq. of L_cls).

    sum_i w_i sum_j |sigmoid(t_ij) - sigmoid(s_ij)|^beta * BCE(s_ij, sigmoid(t_ij)). The gap carries
    gradient on the student's side, as in the released code. Unlike a softmax KL it sees a shift of
    all logits.

    Args:
        student: (..., K) class logits.
        teacher: (..., K) class logits, constant.
        weight: (...) weight of each location, >= 0.
        beta: exponent of the gap; 1 in the paper.

    Returns:
        Tensor: scalar sum, >= 0, float32 (float64 for float64 input).
    """
    student, teacher = _at_least_float(student), _at_least_float(teacher.detach())
    target = teacher.sigmoid()
    gap = (target - student.sigmoid()).abs()
    if beta != 1.0:
        gap = gap.clamp(min=torch.finfo(gap.dtype).tiny).pow(beta)
    loss = gap * F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return (loss.sum(-1) * weight).sum()


def class_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Largest gap over the classes, max_j |sigmoid(t_j) - sigmoid(s_j)|; (..., K) -> (...).

    Detached: it weighs BCKD's localization term.
    """
    student, teacher = (_at_least_float(x.detach()).sigmoid() for x in (student, teacher))
    return (teacher - student).abs().amax(-1)


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize >= 4 else x.float()
