"""Distillation heads, one paper a file."""

from .base import (
    DISTILLATION_HEAD_REGISTRY,
    DistillationHead,
    build_head,
    common_strides,
    head_defaults,
)
from .bckd import BCKD
from .cankd import CanKD
from .crosskd import CrossKD
from .cwd import CWD
from .detkds import DetKDS
from .fgd import FGD
from .fitnets import FitNets
from .ld import LD
from .mask_kd import MaskKD
from .maskd import MasKD
from .mgd import MGD
from .parallel import Parallel
from .pgd import PGD
from .pkd import PKD
from .roi_kd import RoIKD
from .set_kd import SetKD
from .structured import StructuredKD
from .vfm import VFM

__all__ = [
    "BCKD",
    "CWD",
    "CanKD",
    "CrossKD",
    "DISTILLATION_HEAD_REGISTRY",
    "DetKDS",
    "DistillationHead",
    "FGD",
    "FitNets",
    "LD",
    "MGD",
    "MasKD",
    "PGD",
    "PKD",
    "VFM",
    "MaskKD",
    "Parallel",
    "RoIKD",
    "SetKD",
    "StructuredKD",
    "build_head",
    "common_strides",
    "head_defaults",
]
