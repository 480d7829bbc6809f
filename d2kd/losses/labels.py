"""Anchor labels: K for background, -1 for ignored, everything between a class."""

from torch import Tensor


def foreground(labels: Tensor, num_classes: int) -> Tensor:
    """Which labels (any shape, long) are classes; bool of the same shape."""
    return (labels >= 0) & (labels < num_classes)


def positives_per_batch(labels: Tensor, num_classes: int) -> Tensor:
    """Scalar float: sum over images of max(positives, 1), from (N, R) labels."""
    return foreground(labels, num_classes).sum(1).clamp(min=1).sum().float()
