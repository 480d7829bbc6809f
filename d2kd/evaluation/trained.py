"""A trained detector, to be evaluated."""

from detectron2.config import CfgNode
from torch import nn

from ..config.naming import construct
from ..quantize import load_quantized, quantize_student
from .classes import check_classes, check_recorded_classes


def trained_detector(cfg: CfgNode, weights: str, key: str = "MODEL.WEIGHTS") -> nn.Module:
    """A detector in eval mode that is filled completely and has the classes of DATASETS.TEST.

    Args:
        cfg: of a plain detector, without pretrained weights; its data sets are registered.
        weights: the checkpoint.
        key: the option that named it, for error messages.

    Raises:
        ValueError, FileNotFoundError: see `check_classes`, `check_recorded_classes` and
            `d2kd.checkpoint.load_detector`.
    """
    detector = construct(cfg).eval()
    quantize_student(detector, cfg)
    check_classes(cfg, detector, train=False)
    check_recorded_classes(cfg, weights)
    load_quantized(detector, weights, key)
    return detector
