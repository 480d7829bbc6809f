"""AutoAssign: Differentiable Label Assignment for Dense Object Detection (arXiv 2007.03496)."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..errors import check_choice
from ..losses.box import boxes_around
from ..losses.precision import at_least_float, no_autocast
from .cells import CellDetector
from .center_prior import CenterPrior
from .common import head_arguments, plain_arguments
from .head import ScaledFCOSHead
from .inference import detect, select, with_quality
from .weighed_cells import weighed_losses


def add_auto_assign_config(cfg: CfgNode) -> None:
    """Add the keys of MODEL.AUTOASSIGN."""
    cfg.MODEL.AUTOASSIGN = CfgNode()
    cfg.MODEL.AUTOASSIGN.NUM_CLASSES = 80
    cfg.MODEL.AUTOASSIGN.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.AUTOASSIGN.NUM_CONVS = 4
    cfg.MODEL.AUTOASSIGN.NORM = "GN"
    cfg.MODEL.AUTOASSIGN.PRIOR_PROB = 0.02
    cfg.MODEL.AUTOASSIGN.POSITIVE_LOSS_WEIGHT = 0.25
    cfg.MODEL.AUTOASSIGN.NEGATIVE_LOSS_WEIGHT = 0.75
    cfg.MODEL.AUTOASSIGN.CENTER_LOSS_WEIGHT = 0.75
    cfg.MODEL.AUTOASSIGN.FORCE_TOP_K = 0  # cells of largest prior for a box that contains none
    cfg.MODEL.AUTOASSIGN.SKIP_EMPTY = False  # no positive loss of boxes without any cell
    cfg.MODEL.AUTOASSIGN.HARD_LABELS = False  # label cells too, for methods that read labels (ours)
    cfg.MODEL.AUTOASSIGN.SCORE = "product"  # after selection by class | joint, selection by product
    cfg.MODEL.AUTOASSIGN.SCORE_THRESH_TEST = 0.05
    cfg.MODEL.AUTOASSIGN.TOPK_CANDIDATES_TEST = 1000
    cfg.MODEL.AUTOASSIGN.NMS_THRESH_TEST = 0.6


@META_ARCH_REGISTRY.register()
class AutoAssign(CellDetector):
    """FCOS without an assignment: each box weighs the cells inside it, of all levels.

    A cell's weight is a trained prior of its way from the center of the box (`CenterPrior`), times
    how well it predicts class and box. Every cell is a negative too, of the class of a box that
    contains it the less the better it predicts. The centerness of FCOS's head is an objectness, a
    factor of the class probability. Points are the corners of the cells.

    Positive losses are computed at cells inside boxes alone, all in float32 outside autocast. Batch
    padding counts as negative, as in mmdetection. Ours: of a cell in several boxes of one class the
    smaller factor counts, where the released code leaves open which.
    """

    box_coding = "distance"
    rescore = True
    quality = "objectness"

    @configurable
    def __init__(
        self,
        *,
        loss_weights: Sequence[float] = (0.25, 0.75, 0.75),
        force_top_k: int = 0,
        skip_empty: bool = False,
        hard_labels: bool = False,
        score: str = "product",
        **kwargs: Any,
    ) -> None:
        """Build the detector.

        Args:
            loss_weights: of the positive, the negative and the prior's loss.
            force_top_k: cells of largest prior that a box gets which contains none; 0 for none,
                mmdetection's option has 9.
            skip_empty: leave boxes without any cell out of the positive loss, to which each adds
                the weight times 100, without gradient.
            hard_labels: whether cells are labelled in training too; see `label_anchors`.
            score: "product", selection by class score and NMS by it times objectness, as
                mmdetection, or "joint", both by the product, and unclipped, as the authors.
            kwargs: see `CellDetector`.
        """
        super().__init__(**kwargs)
        self.loss_weights, self.score, self.hard_labels = loss_weights, score, hard_labels
        self.force_top_k, self.skip_empty = force_top_k, skip_empty
        self.center_prior = CenterPrior(self.num_classes)
        self.prediction_dims = [self.num_classes, 4, 1]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Translate MODEL.AUTOASSIGN; MODEL.ANCHOR_GENERATOR is not read."""
        node = cfg.MODEL.AUTOASSIGN
        check_choice(node.SCORE, ("product", "joint"), "MODEL.AUTOASSIGN.SCORE")
        arguments = plain_arguments(cfg, node)
        shapes = [arguments["backbone"].output_shape()[name] for name in node.IN_FEATURES]
        strides = [shape.stride for shape in shapes]
        head = ScaledFCOSHead(strides=strides, conv_bias=True, **head_arguments(node, shapes))
        nn.init.constant_(head.bbox_pred.get_parameter("bias"), 4.0)
        return {
            **arguments,
            "head": head,
            "anchor_generator": DefaultAnchorGenerator(
                sizes=[[x] for x in strides], aspect_ratios=[[1.0]], strides=strides, offset=0.0
            ),
            "loss_weights": [node[f"{x}_LOSS_WEIGHT"] for x in ("POSITIVE", "NEGATIVE", "CENTER")],
            "force_top_k": node.FORCE_TOP_K,
            "skip_empty": node.SKIP_EMPTY,
            "hard_labels": node.HARD_LABELS,
            "score": node.SCORE,
        }

    def forward_training(
        self,
        images: ImageList,
        features: List[Tensor],
        predictions: List[List[Tensor]],
        gt_instances: List[Instances],
    ) -> Dict[str, Tensor]:
        """Return the losses; nothing is labelled."""
        z, d, o = self._transpose_dense_predictions(predictions, self.prediction_dims)
        return self.losses_of_boxes(self.anchor_generator(features), z, d, o, gt_instances)

    def losses_of_boxes(
        self,
        anchors: List[Boxes],
        logits: List[Tensor],
        deltas: List[Tensor],
        objectness: List[Tensor],
        gt_instances: List[Instances],
    ) -> Dict[str, Tensor]:
        """Three losses of predictions by level, (N, R_l, D), and the objects of their images."""
        z, d, o = (at_least_float(torch.cat(x, 1)) for x in (logits, deltas, objectness))
        cells, strides = Boxes.cat(anchors), self.level_strides(anchors)
        with no_autocast(z):
            pairs = self.center_prior.pairs(
                cells.get_centers(), strides, gt_instances, self.force_top_k
            )
            boxes = self.decode(d, cells.tensor, strides)
            losses = weighed_losses(z, boxes, o, pairs, self.skip_empty)
        names = "loss_pos", "loss_neg", "loss_center"
        parts = zip(names, self.loss_weights, losses, strict=True)
        return {name: weight * loss for name, weight, loss in parts}

    @torch.no_grad()
    def label_anchors(
        self, anchors: List[Boxes], gt_instances: List[Instances]
    ) -> Tuple[List[Tensor], List[Tensor]]:
        """Hard labels (ours), which the losses do not read: of the box of largest prior.

        Args:
            anchors: by level.
            gt_instances: N `Instances` with gt_boxes (XYXY px), gt_classes and the image's size.

        Returns:
            Tuple: see `_labels_and_boxes`; a cell in no box is background.
        """
        cells, strides = Boxes.cat(anchors), self.level_strides(anchors)
        sizes = [x.image_size for x in gt_instances]
        valid = self._valid_anchors([x.tensor for x in anchors], sizes)
        match = self.center_prior.largest(cells.get_centers(), strides, gt_instances)
        return self._labels_and_boxes(match, valid, gt_instances)

    def decode(self, deltas: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """See the base class: distances in strides, those below 0 are 0; sizes do not matter."""
        return boxes_around(anchors, at_least_float(deltas).relu() * strides[..., None])

    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """See the base class: sigmoid of the class logit alone."""
        return logits.float().sigmoid()

    def forward_inference(
        self, images: ImageList, features: List[Tensor], predictions: List[List[Tensor]]
    ) -> List[Instances]:
        """See the base class; with score "joint", boxes are suppressed before they are clipped."""
        if self.score == "product":
            return super().forward_inference(images, features, predictions)
        maps = self._transpose_dense_predictions(predictions, self.prediction_dims)
        limits = self.test_nms_thresh, self.max_detections_per_image, False
        places = self._places(features)
        return detect(self._detect_jointly, maps, places, images.image_sizes, *limits)

    def _detect_jointly(
        self, logits: Tensor, deltas: Tensor, quality: Tensor, anchors: Tensor, stride: int
    ) -> Tuple[Tensor, Tensor, Tensor]:
        scores = with_quality(self.class_scores(logits, quality), quality)
        limits = self.test_score_thresh, self.test_topk_candidates
        scores, cells, classes = select(scores, *limits)
        boxes = self.decode(deltas[cells], anchors[cells], scores.new_tensor(stride))
        return boxes, scores, classes
