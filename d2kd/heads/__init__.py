"""Distillation heads, one paper a file."""

from .base import (
    DISTILLATION_HEAD_REGISTRY,
    DistillationHead,
    build_head,
    common_strides,
    head_defaults,
)
from .bckd import BCKD
from .crosskd import CrossKD
from .ld import LD
from .parallel import Parallel
from .pgd import PGD
from .pkd import PKD

__all__ = [
    "BCKD",
    "CrossKD",
    "DISTILLATION_HEAD_REGISTRY",
    "DistillationHead",
    "LD",
    "PGD",
    "PKD",
    "Parallel",
    "build_head",
    "common_strides",
    "head_defaults",
]
