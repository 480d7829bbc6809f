"""Everything that d2kd adds to Detectron2's registries and config, there after this import.

Detectron2 asks its registries itself, so what a config may name has to be in them by then:
`Distiller`, `TokenLearner`, the detectors and backbones of d2kd, the heads and the adapters.
"""

from . import adapters, backbones, detectors, distiller, heads, teachers
from .config import add_d2kd_config

__all__ = [
    "adapters",
    "add_d2kd_config",
    "backbones",
    "detectors",
    "distiller",
    "heads",
    "teachers",
]
