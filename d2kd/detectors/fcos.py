"""Detectron2's FCOS, buildable from a yaml config."""

from typing import Any, Dict

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch import fcos


def add_fcos_config(cfg: CfgNode) -> None:
    """Add the keys of MODEL.FCOS, with the values of Detectron2's own FCOS config."""
    cfg.MODEL.FCOS = CfgNode()
    cfg.MODEL.FCOS.NUM_CLASSES = 80
    cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.FCOS.NUM_CONVS = 4
    cfg.MODEL.FCOS.NORM = "GN"
    cfg.MODEL.FCOS.PRIOR_PROB = 0.01
    cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS = 1.5  # in strides
    cfg.MODEL.FCOS.FOCAL_LOSS_ALPHA = 0.25
    cfg.MODEL.FCOS.FOCAL_LOSS_GAMMA = 2.0
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.2
    cfg.MODEL.FCOS.TOPK_CANDIDATES_TEST = 1000
    cfg.MODEL.FCOS.NMS_THRESH_TEST = 0.6


@META_ARCH_REGISTRY.register()
class FCOS(fcos.FCOS):
    """The stock FCOS with a `from_config`; parameters and state dict keys are the stock ones."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """See `detectron2.modeling.meta_arch.fcos.FCOS` for the arguments."""
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Translate MODEL.FCOS, MODEL.PIXEL_* and TEST.DETECTIONS_PER_IMAGE."""
        options = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in options.IN_FEATURES]
        head = fcos.FCOSHead(
            input_shape=shapes,
            num_classes=options.NUM_CLASSES,
            conv_dims=[shapes[0].channels] * options.NUM_CONVS,
            norm=options.NORM,
            prior_prob=options.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": list(options.IN_FEATURES),
            "num_classes": options.NUM_CLASSES,
            "center_sampling_radius": options.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": options.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": options.FOCAL_LOSS_GAMMA,
            "test_score_thresh": options.SCORE_THRESH_TEST,
            "test_topk_candidates": options.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": options.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }
