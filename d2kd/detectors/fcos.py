"""Detectron2's FCOS, buildable from a yaml config, with what mmdetection's checkpoints need."""

from typing import Any, Dict, List, Optional, Tuple

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator, build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch import fcos
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..errors import ConfigError, check_choice
from .head import ScaledFCOSHead
from .inference import detect, select, with_quality
from .norm import head_norm


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
    cfg.MODEL.FCOS.SCORE = "sqrt"  # sqrt of class and centerness | product, after selection
    cfg.MODEL.FCOS.HEAD = "stock"  # stock | scaled, a learned factor per level; with it:
    cfg.MODEL.FCOS.CONV_BIAS = True  # of normalized tower convolutions
    cfg.MODEL.FCOS.BOX_ACTIVATION = "relu"  # relu | exp
    cfg.MODEL.FCOS.CTRNESS_ON = "bbox"  # tower of the centerness: bbox | cls


@META_ARCH_REGISTRY.register()
class FCOS(fcos.FCOS):
    """The stock FCOS with a `from_config`.

    With the default keys, parameters, state dict and results are the stock ones.
    """

    @configurable
    def __init__(
        self,
        *,
        score: str = "sqrt",
        anchor_generator: Optional[DefaultAnchorGenerator] = None,
        **kwargs: Any,
    ) -> None:
        """Build the detector.

        Args:
            anchor_generator: other points than the stock ones, as boxes of the size of a stride.
            score: "sqrt", selection and NMS by sqrt(class * centerness), or "product", selection by
                class score, NMS by class * centerness.
            kwargs: see `detectron2.modeling.meta_arch.fcos.FCOS`.
        """
        super().__init__(**kwargs)
        self.score = score
        if anchor_generator is not None:
            self.anchor_generator = anchor_generator

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Translate MODEL.FCOS, MODEL.PIXEL_* and TEST.DETECTIONS_PER_IMAGE.

        Raises:
            ValueError: an unknown choice, or anchors that are no points.
        """
        options = cfg.MODEL.FCOS
        check_choice(options.SCORE, ("sqrt", "product"), "MODEL.FCOS.SCORE")
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in options.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": _build_head(options, shapes),
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
            "score": options.SCORE,
            "anchor_generator": _own_points(cfg, shapes),
        }

    def losses(
        self,
        anchors: List[Boxes],
        pred_logits: List[Tensor],
        gt_labels: List[Tensor],
        pred_anchor_deltas: List[Tensor],
        gt_boxes: List[Tensor],
        pred_centerness: List[Tensor],
    ) -> Dict[str, Tensor]:
        """The stock losses in float32; in mixed precision the stock ones stop at their types."""
        logits, deltas, ctrness = (
            [x.float() for x in levels]
            for levels in (pred_logits, pred_anchor_deltas, pred_centerness)
        )
        return super().losses(anchors, logits, gt_labels, deltas, gt_boxes, ctrness)

    def forward_inference(
        self, images: ImageList, features: List[Tensor], predictions: List[List[Tensor]]
    ) -> List[Instances]:
        """Detections of each image."""
        if self.score == "sqrt":
            return super().forward_inference(images, features, predictions)
        maps = self._transpose_dense_predictions(predictions, [self.num_classes, 4, 1])
        places = [{"anchors": boxes.tensor} for boxes in self.anchor_generator(features)]
        limits = self.test_nms_thresh, self.max_detections_per_image
        return detect(self._detect_level, maps, places, images.image_sizes, *limits)

    def _detect_level(
        self, logits: Tensor, deltas: Tensor, ctrness: Tensor, anchors: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        limits = self.test_score_thresh, self.test_topk_candidates
        scores, cells, classes = select(logits.float().sigmoid(), *limits)
        boxes = self.box2box_transform.apply_deltas(deltas[cells], anchors[cells])
        return boxes, with_quality(scores, ctrness[cells, 0]), classes


def _own_points(cfg: CfgNode, shapes: List[ShapeSpec]) -> Optional[nn.Module]:
    """What makes other points than the stock ones; the anchors of other detectors are not meant."""
    node = cfg.MODEL.ANCHOR_GENERATOR
    if node.NAME == "DefaultAnchorGenerator":
        return None
    sizes = [[shape.stride] for shape in shapes]
    if [*map(list, node.SIZES)] != sizes or {*map(tuple, node.ASPECT_RATIOS)} != {(1.0,)}:
        raise ConfigError(
            f"MODEL.ANCHOR_GENERATOR.NAME {node.NAME}: a point of FCOS is one box of the size of "
            f"a stride. Set MODEL.ANCHOR_GENERATOR.SIZES {sizes} and "
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS [[1.0]]."
        )
    return build_anchor_generator(cfg, shapes)


def _build_head(options: CfgNode, shapes: List[ShapeSpec]) -> nn.Module:
    common = {
        "input_shape": shapes,
        "num_classes": options.NUM_CLASSES,
        "norm": options.NORM,
        "prior_prob": options.PRIOR_PROB,
    }
    for key, choices in (
        ("HEAD", ("stock", "scaled")),
        ("BOX_ACTIVATION", ("relu", "exp")),
        ("CTRNESS_ON", ("bbox", "cls")),
    ):
        check_choice(options[key], choices, f"MODEL.FCOS.{key}")
    if options.HEAD == "scaled":
        return ScaledFCOSHead(
            strides=[shape.stride for shape in shapes],
            num_convs=options.NUM_CONVS,
            conv_bias=options.CONV_BIAS,
            box_activation=options.BOX_ACTIVATION,
            ctrness_on=options.CTRNESS_ON,
            **common,
        )
    if (options.CONV_BIAS, options.BOX_ACTIVATION, options.CTRNESS_ON) != (True, "relu", "bbox"):
        raise ValueError(
            "MODEL.FCOS.CONV_BIAS, BOX_ACTIVATION and CTRNESS_ON are options of the scaled head: "
            "set MODEL.FCOS.HEAD scaled."
        )
    common["norm"] = head_norm(options.NORM)
    return fcos.FCOSHead(conv_dims=[shapes[0].channels] * options.NUM_CONVS, **common)
