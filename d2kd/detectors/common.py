"""Config keys and constructor arguments that dense detectors of d2kd share."""

from typing import Any, Dict, List

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator, build_backbone


def add_common_config(node: CfgNode) -> None:
    """Add the keys that ATSS, DDOD and GFL share."""
    node.NUM_CLASSES = 80
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    node.NUM_CONVS = 4
    node.NORM = "GN"
    node.PRIOR_PROB = 0.01
    node.ASSIGNER_TOPK = 9  # candidates per level and box
    node.BBOX_LOSS_WEIGHT = 2.0
    node.SCORE_THRESH_TEST = 0.05
    node.TOPK_CANDIDATES_TEST = 1000
    node.NMS_THRESH_TEST = 0.6


def common_arguments(cfg: CfgNode, node: CfgNode) -> Dict[str, Any]:
    """Arguments of `AnchorPointDetector` from a config, without the head."""
    arguments = plain_arguments(cfg, node)
    shapes = [arguments["backbone"].output_shape()[name] for name in node.IN_FEATURES]
    anchors = build_anchor_generator(cfg, shapes)
    return {**arguments, "anchor_generator": anchors, "assigner_topk": node.ASSIGNER_TOPK}


def plain_arguments(cfg: CfgNode, node: CfgNode) -> Dict[str, Any]:
    """As `common_arguments`, without what concerns anchors and their assignment."""
    return {
        "backbone": build_backbone(cfg),
        "head_in_features": list(node.IN_FEATURES),
        "num_classes": node.NUM_CLASSES,
        "test_score_thresh": node.SCORE_THRESH_TEST,
        "test_topk_candidates": node.TOPK_CANDIDATES_TEST,
        "test_nms_thresh": node.NMS_THRESH_TEST,
        "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def head_arguments(node: CfgNode, input_shape: List[ShapeSpec]) -> Dict[str, Any]:
    """Arguments that heads of dense detectors share, from a config."""
    return {
        "input_shape": input_shape,
        "num_classes": node.NUM_CLASSES,
        "num_convs": node.NUM_CONVS,
        "norm": node.NORM,
        "prior_prob": node.PRIOR_PROB,
    }
