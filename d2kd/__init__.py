"""Knowledge distillation of object detectors on Detectron2."""

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
from .config.defaults import add_d2kd_config
from .distiller import Distiller
from .engine.hooks.schedule import DistillationSchedule
from .engine.trainer import DistillationTrainer
from .heads import DISTILLATION_HEAD_REGISTRY, DistillationHead
from .teachers.teacher import Teacher, build_teacher
from .version import __version__

__all__ = [
    "__version__",
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
