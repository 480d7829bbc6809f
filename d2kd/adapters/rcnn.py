"""Adapter of GeneralizedRCNN: Faster and Mask R-CNN, and any other for its features alone."""

from typing import FrozenSet, List, Optional, Tuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads.roi_heads import StandardROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor

from .base import (
    DETECTOR_ADAPTER_REGISTRY,
    DenseMaps,
    DetectorAdapter,
    DetectorOutput,
    DetectorSpec,
    RoIOutput,
)

_RPN_REPLAYS = (RPN.forward,)
_ROI_REPLAYS = (StandardROIHeads.forward, StandardROIHeads._forward_box)


@DETECTOR_ADAPTER_REGISTRY.register()
class GeneralizedRCNNAdapter(DetectorAdapter):
    """Two-stage detectors.

    RPN maps are provided for the stock `RPN`, RoI outputs for the stock `StandardROIHeads`; with
    other parts, or when no head asks for them, the stock modules run unchanged.
    """

    replays = (GeneralizedRCNN.forward,)

    def __init__(self, detector: GeneralizedRCNN) -> None:
        """See the base class."""
        super().__init__(detector)
        shapes = detector.backbone.output_shape()
        names = _feature_names(detector)
        self._names = dict(sorted((shapes[name].stride, name) for name in names))
        extra = {"proposals"}
        if _replayable(detector.proposal_generator, _RPN_REPLAYS):
            extra.add("rpn")
        if (
            _replayable(detector.roi_heads, _ROI_REPLAYS)
            and not detector.roi_heads.train_on_pred_boxes
        ):
            extra.add("roi")
        self.provides = self.provides | extra

    def spec(self) -> DetectorSpec:
        """See the base class."""
        shapes = self.detector.backbone.output_shape()
        features = {stride: shapes[name] for stride, name in self._names.items()}
        return DetectorSpec(
            name=type(self.detector).__name__,
            features={s: ShapeSpec(channels=f.channels, stride=s) for s, f in features.items()},
            num_classes=self.detector.roi_heads.num_classes,
            box_coding="anchor_delta",
        )

    def forward(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """See the base class. A teacher's `roi` is filled by `roi_forward`."""
        pyramid = self.detector.backbone(images.tensor)
        out = DetectorOutput(images, self, {s: pyramid[name] for s, name in self._names.items()})
        if gt is None and "rpn" not in need:
            return out
        if "rpn" in need:
            proposals = self._forward_rpn(out, pyramid, gt)
        else:
            proposals, out.losses = self.detector.proposal_generator(images, pyramid, gt)
        if gt is not None:
            out.gt = gt
            roi_losses = self._forward_roi(out, pyramid, proposals, need)
            out.losses = {**roi_losses, **out.losses}
        return out

    def _forward_rpn(
        self, out: DetectorOutput, pyramid: dict, gt: Optional[List[Instances]]
    ) -> List[Instances]:
        rpn = self.detector.proposal_generator
        features = [pyramid[name] for name in rpn.in_features]
        anchors = rpn.anchor_generator(features)
        logits, deltas = rpn.rpn_head(features)
        logits = [permute_to_N_HWA_K(x, 1) for x in logits]
        deltas = [permute_to_N_HWA_K(x, rpn.anchor_generator.box_dim) for x in deltas]
        shapes = self.detector.backbone.output_shape()
        strides = [shapes[name].stride for name in rpn.in_features]
        out.rpn = DenseMaps(
            logits=dict(zip(strides, logits, strict=True)),
            deltas=dict(zip(strides, deltas, strict=True)),
        )
        out.anchors = dict(zip(strides, anchors, strict=True))
        if gt is None:
            return []
        logits = [x.squeeze(2) for x in logits]
        labels, boxes = rpn.label_and_sample_anchors(anchors, gt)
        out.losses = rpn.losses(anchors, logits, labels, deltas, boxes)
        out.rpn.labels = torch.stack(labels)
        return rpn.predict_proposals(anchors, logits, deltas, out.images.image_sizes)

    def _forward_roi(
        self, out: DetectorOutput, pyramid: dict, proposals: List[Instances], need: FrozenSet[str]
    ) -> dict:
        heads = self.detector.roi_heads
        if "roi" not in need:
            out.proposals, losses = heads(out.images, pyramid, proposals, out.gt)
            return losses
        out.proposals = heads.label_and_sample_proposals(proposals, out.gt)
        stage, predictions = self._run_box_head(pyramid, out.proposals)
        out.roi = [stage]
        losses = heads.box_predictor.losses(predictions, out.proposals)
        losses.update(heads._forward_mask(pyramid, out.proposals))
        losses.update(heads._forward_keypoint(pyramid, out.proposals))
        return losses

    def _run_box_head(
        self, pyramid: dict, proposals: List[Instances]
    ) -> Tuple[RoIOutput, Tuple[Tensor, Tensor]]:
        heads = self.detector.roi_heads
        features = [pyramid[name] for name in heads.box_in_features]
        pooled = heads.box_pooler(features, [x.proposal_boxes for x in proposals])
        box_features = heads.box_head(pooled)
        predictions = heads.box_predictor(box_features)
        return RoIOutput(*predictions, box_features), predictions

    def roi_forward(self, output: DetectorOutput, proposals: List[Instances]) -> List[RoIOutput]:
        """Run the RoI box head on given proposals, such as a student's sampled ones.

        Args:
            output: result of `forward` on the same images.
            proposals: N `Instances` with proposal_boxes, XYXY px.

        Returns:
            List[RoIOutput]: one per stage.
        """
        pyramid = {name: output.features[stride] for stride, name in self._names.items()}
        return [self._run_box_head(pyramid, proposals)[0]]


def _feature_names(detector: GeneralizedRCNN) -> List[str]:
    generator, heads = detector.proposal_generator, detector.roi_heads
    names = set(getattr(generator, "in_features", ())) | set(getattr(heads, "in_features", ()))
    return list(names or detector.backbone.output_shape())


def _replayable(module: object, replays: tuple) -> bool:
    return all(getattr(type(module), f.__name__, None) is f for f in replays)
