"""Losses on feature maps."""

from torch import Tensor


def pearson_loss(student: Tensor, teacher: Tensor, eps: float = 1e-6) -> Tensor:
    """Half the mean squared difference of two maps standardized per channel (PKD, NeurIPS 2022).

    Each channel is standardized over N, H, W with its unbiased standard deviation, so that with n
    values a channel the loss is (n - 1) / n * (1 - mean Pearson correlation): 0 for maps equal up
    to a positive affine map of each channel, 1 for uncorrelated ones, up to 2. A channel with a
    single value (n = 1) has no deviation and counts as 0.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W), constant.
        eps: added to the standard deviation.

    Returns:
        Tensor: scalar, float32 (float64 for float64 input).
    """
    difference = _standardize(student, eps) - _standardize(teacher.detach(), eps)
    return difference.square().mean() / 2


def _standardize(x: Tensor, eps: float) -> Tensor:
    x = x if x.dtype.itemsize >= 4 else x.float()
    correction = min(1, x.shape[0] * x.shape[2] * x.shape[3] - 1)
    centred = x - x.mean(dim=(0, 2, 3), keepdim=True)
    count = x[:, 0].numel() - correction
    variance = centred.square().sum(dim=(0, 2, 3), keepdim=True) / max(count, 1)
    return centred / (variance.clamp(min=1e-12).sqrt() + eps)
