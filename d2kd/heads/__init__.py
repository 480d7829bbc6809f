"""Distillation heads, one paper a file."""

from .base import (
    DISTILLATION_HEAD_REGISTRY,
    DistillationHead,
    build_head,
    common_strides,
    head_defaults,
)
from .bckd import BCKD
from .pkd import PKD

__all__ = [
    "BCKD",
    "DISTILLATION_HEAD_REGISTRY",
    "DistillationHead",
    "PKD",
    "build_head",
    "common_strides",
    "head_defaults",
]
