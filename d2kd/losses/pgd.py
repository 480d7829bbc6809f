"""Losses on tower activations of PGD: Prediction-Guided Distillation.

Yang et al., ECCV 2022 (arXiv 2203.05469), section 3.3. N images, C channels, P = H * W locations;
each function takes one FPN level.
"""

from typing import Any, Tuple

import torch
from torch import Tensor

from .precision import at_least_float


def class_tower_loss(
    student: Tensor, teacher: Tensor, weight: Tensor, delta: float, temperature: float
) -> Tensor:
    """Attention-weighted difference of class-tower activations, and of their attention.

    With A_s the spatial attention, P * softmax over locations of the channels' mean |F| / T, and
    A_c the channel attention, C * softmax over channels of |F| / T at each location,

        (1 / N) sum weight * A_s^T * A_c^T * (F^S - F^T)^2
        + delta / N * (sum |A_c^S - A_c^T| / P + sum |A_s^S - A_s^T|)

    One pass: value and gradient are computed together, and one tensor is kept for the backward
    pass, where the usual graph keeps five. Not differentiable twice.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W), constant.
        weight: (N, P) >= 0, constant: the weights of object and background locations together.
        delta: weight of the attention term.
        temperature: T > 0.

    Returns:
        Tensor: scalar, float32 (float64 for float64 input).
    """
    student, teacher = (at_least_float(x).flatten(2) for x in (student, teacher.detach()))
    return _ClassTower.apply(student, teacher, weight, delta, temperature)


class _ClassTower(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, weight: Tensor, delta: float, temperature: float
    ) -> Tensor:
        spatial_t, channel_t = _attention(teacher, temperature)
        spatial_s, channel_s = _attention(student, temperature)
        value_s, slope_s = _softmax_distance(spatial_s, spatial_t, 1)
        value_c, slope_c = _softmax_distance(channel_s, channel_t, 1)
        n, c, p = student.shape
        slope = slope_c.mul_(c / (n * p))
        slope.add_(slope_s.mul_(p / (n * c))[:, None])
        slope.mul_(student.sign()).mul_(delta / temperature)
        guide = channel_t.mul_((weight * spatial_t * (c * p / n))[:, None])
        difference = student - teacher
        slope.add_(guide.mul_(difference), alpha=2)
        ctx.save_for_backward(slope)
        feature = guide.mul_(difference).sum()
        return feature + delta * (value_c * (c / (n * p)) + value_s * (p / n))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None, None, None]:
        return ctx.saved_tensors[0] * grad, None, None, None, None


def _attention(x: Tensor, temperature: float) -> Tuple[Tensor, Tensor]:
    """Softmax of |x| / T of (N, C, P): of the channels' mean over P, and over C."""
    x = x.abs().div_(temperature)
    return x.mean(1).softmax(1), x.softmax(1)


def _softmax_distance(student: Tensor, teacher: Tensor, dim: int) -> Tuple[Tensor, Tensor]:
    """Sum of |student - teacher| of softmax outputs, and its gradient at the student's input."""
    difference = student - teacher
    value = difference.abs().sum()
    sign = difference.sign_()
    mean = torch.sum(sign * student, dim, keepdim=True)
    return value, sign.sub_(mean).mul_(student)


def box_tower_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    count: Tensor,
    max_count: int,
    gamma: float,
    delta: float,
    temperature: float,
) -> Tensor:
    """Weighted difference of box-tower activations in the key regions, and of their attention.

    With A_c as for `class_tower_loss`, over the locations of weight > 0:

        (1 / count) sum (gamma * weight * mean_c A_c^T (F^S - F^T)^2 + delta sum_c |A_c^S - A_c^T|)

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W), constant.
        weight: (N, P) >= 0, constant.
        count: scalar that divides, clamped to a least value above 0.
        max_count: an upper bound, known without asking the device, of the locations of weight > 0
            in an image; no more are read.
        gamma, delta: weights of the two terms.
        temperature: T > 0.

    Returns:
        Tensor: scalar, float32 (float64 for float64 input); 0 without such locations.
    """
    student, teacher = student.flatten(2), teacher.detach().flatten(2)
    if max_count < weight.shape[1]:
        weight, index = weight.topk(max(max_count, 1), dim=1, sorted=False)
        index = index[:, None].expand(-1, student.shape[1], -1)
        student, teacher = student.gather(2, index), teacher.gather(2, index)
    student, teacher = at_least_float(student), at_least_float(teacher)
    channel_s, channel_t = (
        (x.abs() / temperature).softmax(1) * x.shape[1] for x in (student, teacher)
    )
    feature = (channel_t * (student - teacher).square()).mean(1) * weight
    attention = (channel_s - channel_t).abs().sum(1) * (weight > 0)
    return (gamma * feature + delta * attention).sum() / count
