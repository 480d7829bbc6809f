"""Config keys of RepPoints, and its arguments from them."""

from typing import Any, Dict

from detectron2.config import CfgNode
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from ..errors import check_choice
from ..losses.points import TRANSFORMS
from .common import head_arguments, plain_arguments
from .point_assigner import LOW_QUALITY
from .point_head import RepPointsHead

POINT_SCALE = 4
"""Side of a box in strides of its level."""
_CHOICES = {
    "TRANSFORM": TRANSFORMS,
    "LOW_QUALITY": LOW_QUALITY,
    "NORMALIZER": ("all_ranks", "local"),
}


def add_reppoints_config(cfg: CfgNode) -> None:
    """Add the keys of MODEL.REPPOINTS."""
    cfg.MODEL.REPPOINTS = CfgNode()
    cfg.MODEL.REPPOINTS.NUM_CLASSES = 80
    cfg.MODEL.REPPOINTS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.REPPOINTS.NUM_CONVS = 3
    cfg.MODEL.REPPOINTS.NORM = "GN"
    cfg.MODEL.REPPOINTS.PRIOR_PROB = 0.01
    cfg.MODEL.REPPOINTS.TRANSFORM = "moment"  # of points to a box: moment | minmax | partial_minmax
    cfg.MODEL.REPPOINTS.IOU_THRESHOLDS = [0.4, 0.5]  # background below, objects from the second on
    cfg.MODEL.REPPOINTS.LOW_QUALITY = "overlapping"  # boxes that take cells | official | none
    cfg.MODEL.REPPOINTS.NORMALIZER = "all_ranks"  # positives, a mean over ranks | local
    cfg.MODEL.REPPOINTS.FOCAL_LOSS_ALPHA = 0.25
    cfg.MODEL.REPPOINTS.FOCAL_LOSS_GAMMA = 2.0
    cfg.MODEL.REPPOINTS.PTS_INIT_LOSS_WEIGHT = 0.5  # of the boxes of the first points
    cfg.MODEL.REPPOINTS.PTS_REFINE_LOSS_WEIGHT = 1.0  # of the boxes of the refined points
    cfg.MODEL.REPPOINTS.SCORE_THRESH_TEST = 0.05
    cfg.MODEL.REPPOINTS.TOPK_CANDIDATES_TEST = 1000
    cfg.MODEL.REPPOINTS.NMS_THRESH_TEST = 0.5


def reppoints_arguments(cfg: CfgNode) -> Dict[str, Any]:
    """Arguments of `RepPoints` from a config.

    Raises:
        ValueError: an unknown choice, or not two IOU_THRESHOLDS.
    """
    node = cfg.MODEL.REPPOINTS
    _check_config(node)
    arguments = plain_arguments(cfg, node)
    shapes = [arguments["backbone"].output_shape()[name] for name in node.IN_FEATURES]
    strides = [shape.stride for shape in shapes]
    sizes = [[POINT_SCALE * stride] for stride in strides]
    return {
        **arguments,
        "head": RepPointsHead(**head_arguments(node, shapes)),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=sizes, aspect_ratios=[[1.0]], strides=strides, offset=0.0
        ),
        "transform": node.TRANSFORM,
        "iou_thresholds": tuple(node.IOU_THRESHOLDS),
        "low_quality": node.LOW_QUALITY,
        "normalizer": node.NORMALIZER,
        "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
        "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
        "loss_weights": (node.PTS_REFINE_LOSS_WEIGHT, node.PTS_INIT_LOSS_WEIGHT),
    }


def _check_config(node: CfgNode) -> None:
    for key, choices in _CHOICES.items():
        check_choice(node[key], choices, f"MODEL.REPPOINTS.{key}")
    if len(node.IOU_THRESHOLDS) != 2:
        raise ValueError(
            f"MODEL.REPPOINTS.IOU_THRESHOLDS is {node.IOU_THRESHOLDS}: give two, such as [0.4, 0.5]"
        )
