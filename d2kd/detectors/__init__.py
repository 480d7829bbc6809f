"""Detectors that Detectron2 lacks or cannot build from yaml; importing registers them."""

from detectron2.config import CfgNode

from .atss import ATSS, add_atss_config
from .auto_assign import AutoAssign, add_auto_assign_config
from .ddod import DDOD, add_ddod_config
from .extractor import FeatureExtractor
from .fcos import FCOS, add_fcos_config
from .gfl import GFL, add_gfl_config
from .quality import QUALITY_PREDICTOR_REGISTRY
from .reppoints import RepPoints
from .reppoints_config import add_reppoints_config
from .torchvision import TorchvisionAnchorGenerator
from .transformers import TransformersDetector, add_transformers_config
from .transformers_backbone import Predicted


def add_detector_config(cfg: CfgNode) -> None:
    """Add the keys of every detector of this package."""
    add_fcos_config(cfg)
    add_atss_config(cfg)
    add_auto_assign_config(cfg)
    add_ddod_config(cfg)
    add_gfl_config(cfg)
    add_reppoints_config(cfg)
    add_transformers_config(cfg)


__all__ = [
    "ATSS",
    "AutoAssign",
    "DDOD",
    "FCOS",
    "FeatureExtractor",
    "GFL",
    "Predicted",
    "QUALITY_PREDICTOR_REGISTRY",
    "RepPoints",
    "TorchvisionAnchorGenerator",
    "TransformersDetector",
    "add_detector_config",
]
