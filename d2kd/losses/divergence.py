"""Losses between class predictions."""

from typing import Any, Tuple

import torch
from torch import Tensor

from .focal import quality_focal_loss
from .precision import at_least_float


def binary_distillation_loss(
    student: Tensor, teacher: Tensor, weight: Tensor, beta: float = 1.0
) -> Tensor:
    """Binary cross-entropy with soft targets, weighted by the gap (BCKD, ICCV 2023, eq. of L_cls).

    sum_i w_i sum_j |sigmoid(t_ij) - sigmoid(s_ij)|^beta * BCE(s_ij, sigmoid(t_ij)). The gap carries
    gradient on the student's side, as in the released code. Unlike a softmax KL it sees a shift of
    all logits. Not differentiable twice.

    Args:
        student: (..., K) class logits.
        teacher: (..., K) class logits, constant.
        weight: (...) weight of each location, >= 0.
        beta: exponent of the gap; 1 in the paper.

    Returns:
        Tensor: scalar sum, >= 0, float32 (float64 for float64 input).
    """
    target = at_least_float(teacher.detach()).sigmoid()
    return (quality_focal_loss(student, target, beta).sum(-1) * weight).sum()


def class_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Largest gap over the classes, max_j |sigmoid(t_j) - sigmoid(s_j)|; (..., K) -> (...).

    Detached: it weighs BCKD's localization term.
    """
    student, teacher = (at_least_float(x.detach()).sigmoid() for x in (student, teacher))
    return teacher.sub_(student).abs_().amax(-1)


def softened_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of softened distributions, times T^2 (Hinton et al., 2015).

    T^2 * sum_k q_k (log q_k - log p_k) with q = softmax(teacher / T), p = softmax(student / T).
    LD's released code takes the mean over k, which is this divided by m. Value and
    gradient are computed together; not differentiable twice.

    Args:
        student: (..., m) logits.
        teacher: (..., m) logits, constant.
        temperature: T > 0.

    Returns:
        Tensor: (...), >= 0, float32 (float64 for float64 input).
    """
    student, teacher = at_least_float(student), at_least_float(teacher.detach())
    return _SoftenedKL.apply(student, teacher, temperature)


class _SoftenedKL(torch.autograd.Function):
    """The gradient at the student's logits is T * (p - q).

    The sum of p - q is 0 but for rounding, which T^2 would multiply; it is taken off the value.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        log_p, log_q = ((x / temperature).log_softmax(-1) for x in (student, teacher))
        q = log_q.exp()
        terms = log_q.sub_(log_p).mul_(q)
        gap = log_p.exp_().sub_(q)
        loss = terms.add_(gap).sum(-1).clamp_(min=0)
        ctx.save_for_backward(gap.mul_(temperature))
        return loss.mul_(temperature**2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad[..., None], None, None
