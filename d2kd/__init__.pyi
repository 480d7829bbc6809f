from . import backbones as backbones
from . import detectors as detectors
from . import losses as losses
from .adapters import DETECTOR_ADAPTER_REGISTRY as DETECTOR_ADAPTER_REGISTRY
from .adapters import DetectorAdapter as DetectorAdapter
from .adapters import DetectorOutput as DetectorOutput
from .adapters import DetectorSpec as DetectorSpec
from .adapters import build_adapter as build_adapter
from .distiller import Distiller as Distiller
from .engine.hooks import DistillationSchedule as DistillationSchedule
from .engine.trainer import DistillationTrainer as DistillationTrainer
from .heads import DISTILLATION_HEAD_REGISTRY as DISTILLATION_HEAD_REGISTRY
from .heads import DistillationHead as DistillationHead
from .registration import add_d2kd_config as add_d2kd_config
from .teachers import Teacher as Teacher
from .teachers import build_teacher as build_teacher

__version__: str
