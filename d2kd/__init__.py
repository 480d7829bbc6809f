"""Knowledge distillation of object detectors on Detectron2."""

__version__ = "0.1.0"

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "d2kd needs Detectron2, which has no PyPI release: pip install --no-build-isolation "
        "'git+https://github.com/facebookresearch/detectron2.git'"
    ) from error

from . import backbones, detectors, losses
from .adapters import (
    DETECTOR_ADAPTER_REGISTRY,
    DetectorAdapter,
    DetectorOutput,
    DetectorSpec,
    build_adapter,
)
from .config import add_d2kd_config
from .distiller import Distiller
from .engine import DistillationTrainer
from .heads import DISTILLATION_HEAD_REGISTRY, DistillationHead
from .hooks import DistillationSchedule
from .teacher import Teacher, build_teacher

__all__ = [
    "DETECTOR_ADAPTER_REGISTRY",
    "DISTILLATION_HEAD_REGISTRY",
    "DetectorAdapter",
    "DetectorOutput",
    "DetectorSpec",
    "DistillationHead",
    "DistillationSchedule",
    "DistillationTrainer",
    "Distiller",
    "Teacher",
    "add_d2kd_config",
    "backbones",
    "build_adapter",
    "build_teacher",
    "detectors",
    "losses",
]
