"""Losses between predictions on regions of interest: P regions, K classes and background."""

from typing import Any, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float
from .stable import log1p


def decoupled_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 0.25,
    temperature: float = 1.0,
) -> Tensor:
    """Decoupled knowledge distillation (DKD, CVPR 2022, arXiv 2203.08679, equation 7).

    alpha * T^2 * KL(b^t || b^s) + beta * T^2 * KL(q^t || q^s) with b the probabilities (p_y,
    1 - p_y) of the label y and of the rest, q the softmax over all classes but y. With alpha = 1
    and beta = 1 - p^t_y it is `softened_kl`.

    Args:
        student, teacher: (P, K + 1) logits; the teacher's are constant.
        labels: (P,) long in [0, K].
        alpha, beta: weights of the two divergences, >= 0.
        temperature: T > 0.

    Returns:
        Tensor: (P,), >= 0, float32 (float64 for float64 input).
    """
    student, teacher = at_least_float(student), at_least_float(teacher.detach())
    index = labels[:, None]
    label = torch.zeros_like(student, dtype=torch.bool).scatter(1, index, True)
    binary, rest = [], []
    for x in (student, teacher):
        log_p = (x / temperature).log_softmax(1)
        without = log_p.masked_fill(label, -torch.inf)
        binary.append(torch.cat([log_p.gather(1, index), without.logsumexp(1, keepdim=True)], 1))
        rest.append(without.log_softmax(1).masked_fill(label, 0))
    target = _divergence(*binary).sum(1)
    others = _divergence(*rest).masked_fill(label, 0).sum(1)
    return (alpha * target + beta * others) * temperature**2


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Q (log q - log p) of each class, less what rounding adds to the sums of q and p."""
    rounding = (log_p.exp() - log_q.exp()).detach()
    return F.kl_div(log_p, log_q, reduction="none", log_target=True) + rounding


def relation_losses(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Correlation distillation (DIST, NeurIPS 2022, arXiv 2205.10536): (inter, intra).

    inter is the mean over regions of 1 - Pearson correlation of their class probabilities, intra
    the mean over classes of 1 - correlation of a class's probability over the regions. Rows and
    columns that are constant correlate with nothing: they count 1.

    Args:
        student, teacher: (P, K + 1) logits, the teacher's constant.
        temperature: T > 0, of the softmax.

    Returns:
        Tensor: (2,) in [0, 2], float32 (float64 for float64 input); 0 without regions.
    """
    student, teacher = at_least_float(student), at_least_float(teacher.detach())
    if len(student) == 0:
        return torch.zeros(2, dtype=student.dtype, device=student.device) + student.sum()
    p_s, p_t = ((x / temperature).softmax(1) for x in (student, teacher))
    return torch.stack([(1 - _correlation(p_s, p_t, dim)).mean() for dim in (1, 0)])


def _correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    for _ in range(2):  # the mean of equal values is off by rounding, which would correlate
        a, b = (x - x.mean(dim, keepdim=True) for x in (a, b))
    norm_a, norm_b = (torch.linalg.vector_norm(x, dim=dim).clamp(min=1e-8) for x in (a, b))
    return (a * b).sum(dim) / (norm_a * norm_b)


def mask_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 times the KL divergence of the pixels' foreground probabilities, a mean over pixels.

    With p = sigmoid(logit / T) this is the binary cross-entropy with the teacher's p as target,
    less the teacher's entropy, so that equal masks give 0 (ours). Not
    differentiable twice.

    Args:
        student: (F, M, M) mask logits.
        teacher: (F, M', M') mask logits, constant; the student's are resized to M' bilinearly.
        temperature: T > 0.

    Returns:
        Tensor: (F,), >= 0, float32 (float64 for float64 input).
    """
    student, teacher = at_least_float(student), at_least_float(teacher.detach())
    if student.shape[1:] != teacher.shape[1:]:
        student = F.interpolate(student[:, None], teacher.shape[1:], mode="bilinear")[:, 0]
    loss = _BinaryKL.apply(student / temperature, teacher / temperature)
    return loss.mean((1, 2)) * temperature**2


class _BinaryKL(torch.autograd.Function):
    """Divergence of sigmoids, elementwise; the gradient at the student's logits is p - q."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        q = teacher.sigmoid()
        ctx.save_for_backward(student.sigmoid().sub_(q))
        u_s, u_t = (x.abs().neg_().exp_() for x in (student, teacher))
        gap = log1p(u_s.sub_(u_t).div_(u_t + 1))  # of softplus, less that of max(x, 0)
        gap.add_(student.clamp(min=0)).sub_(teacher.clamp(min=0))
        return gap.sub_(q.mul_(student - teacher))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grad, None
