"""The RoI heads of a two-stage detector, replayed from their public parts."""

from typing import Callable, ClassVar, Dict, List, Optional, Tuple, Type

from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads.cascade_rcnn import CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, mask_rcnn_loss
from detectron2.modeling.roi_heads.roi_heads import (
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .output import MaskOutput, RoIOutput
from .replay import replayable

Pyramid = Dict[str, Tensor]
Losses = Dict[str, Tensor]


class Regions:
    """Box stages of RoI heads; `replays` are the stock functions whose steps are repeated."""

    replays: ClassVar[Tuple[Callable, ...]] = ()
    num_stages: int = 1

    def __init__(self, heads: StandardROIHeads) -> None:
        """Wrap stock RoI heads; nothing is changed in them."""
        self.heads = heads

    @property
    def exclusive(self) -> bool:
        """Whether the logits are those of a softmax, so that a region has one class."""
        return not self.predictor(0).use_sigmoid_ce

    def forward(
        self, pyramid: Pyramid, proposals: List[Instances], gt: List[Instances]
    ) -> Tuple[List[RoIOutput], Losses]:
        """Every stage on sampled, labelled proposals, and the stock losses."""
        raise NotImplementedError

    def stage(self, pyramid: Pyramid, proposals: List[Instances], index: int) -> RoIOutput:
        """One stage on given proposals."""
        raise NotImplementedError

    def predictor(self, index: int) -> FastRCNNOutputLayers:
        """The box predictor of a stage."""
        return self.heads.box_predictor

    def matcher(self, index: int) -> Matcher:
        """What matches the proposals of a stage with objects."""
        return self.heads.proposal_matcher


class StandardRegions(Regions):
    """One stage: Faster and Mask R-CNN."""

    replays = (StandardROIHeads.forward, StandardROIHeads._forward_box)

    def forward(
        self, pyramid: Pyramid, proposals: List[Instances], gt: List[Instances]
    ) -> Tuple[List[RoIOutput], Losses]:
        """See the base class."""
        stage = self.stage(pyramid, proposals, 0)
        predictor = self.heads.box_predictor
        return [stage], predictor.losses((stage.logits, stage.deltas), proposals)

    def stage(self, pyramid: Pyramid, proposals: List[Instances], index: int) -> RoIOutput:
        """See the base class."""
        features = [pyramid[name] for name in self.heads.box_in_features]
        pooled = self.heads.box_pooler(features, [x.proposal_boxes for x in proposals])
        logits, deltas = self.heads.box_predictor(self.heads.box_head(pooled))
        return RoIOutput(logits, deltas, proposals)


class CascadeRegions(Regions):
    """Stages that refine each other's boxes: Cascade R-CNN, with and without masks."""

    replays = (CascadeROIHeads.forward, CascadeROIHeads._forward_box)

    def __init__(self, heads: CascadeROIHeads) -> None:
        """See the base class."""
        super().__init__(heads)
        self.num_stages = heads.num_cascade_stages

    def predictor(self, index: int) -> FastRCNNOutputLayers:
        """See the base class."""
        return self.heads.box_predictor[index]

    def matcher(self, index: int) -> Matcher:
        """See the base class."""
        return self.heads.proposal_matchers[index]

    def forward(
        self, pyramid: Pyramid, proposals: List[Instances], gt: List[Instances]
    ) -> Tuple[List[RoIOutput], Losses]:
        """See the base class."""
        heads, stages = self.heads, []
        boxes: List[Tensor] = []
        sizes = [x.image_size for x in proposals]
        for k in range(self.num_stages):
            if k > 0:
                proposals = heads._create_proposals_from_boxes(boxes, sizes)
                proposals = heads._match_and_label_boxes(proposals, k, gt)
            stages.append(self.stage(pyramid, proposals, k))
            predictions = stages[k].logits, stages[k].deltas
            boxes = heads.box_predictor[k].predict_boxes(predictions, proposals)
        return stages, self._losses(stages)

    def _losses(self, stages: List[RoIOutput]) -> Losses:
        losses = {}
        for k, stage in enumerate(stages):
            with get_event_storage().name_scope(f"stage{k}"):
                predictor = self.heads.box_predictor[k]
                found = predictor.losses((stage.logits, stage.deltas), stage.proposals)
            losses.update({f"{name}_stage{k}": value for name, value in found.items()})
        return losses

    def stage(self, pyramid: Pyramid, proposals: List[Instances], index: int) -> RoIOutput:
        """See the base class."""
        features = [pyramid[name] for name in self.heads.box_in_features]
        logits, deltas = self.heads._run_stage(features, proposals, index)
        return RoIOutput(logits, deltas, proposals)


class Masks:
    """The mask branch of stock RoI heads, on foreground proposals."""

    def __init__(self, heads: StandardROIHeads) -> None:
        """Wrap stock RoI heads with masks."""
        self.heads = heads

    @staticmethod
    def replayable(heads: StandardROIHeads) -> bool:
        """Whether the mask branch is there and stock."""
        return (
            getattr(heads, "mask_on", False)
            and heads.mask_pooler is not None
            and replayable(heads, (StandardROIHeads._forward_mask,))
            and replayable(heads.mask_head, (BaseMaskRCNNHead.forward,))
        )

    def forward(self, pyramid: Pyramid, proposals: List[Instances]) -> Tuple[MaskOutput, Losses]:
        """Logits on the foreground of labelled proposals, and the stock loss."""
        proposals, _ = select_foreground_proposals(proposals, self.heads.num_classes)
        output, head = self.logits(pyramid, proposals), self.heads.mask_head
        loss = mask_rcnn_loss(output.logits, proposals, head.vis_period) * head.loss_weight
        return output, {"loss_mask": loss}

    def logits(self, pyramid: Pyramid, proposals: List[Instances]) -> MaskOutput:
        """Logits on given proposals."""
        features = [pyramid[name] for name in self.heads.mask_in_features]
        pooled = self.heads.mask_pooler(features, [x.proposal_boxes for x in proposals])
        return MaskOutput(self.heads.mask_head.layers(pooled), proposals)


def build_regions(heads: nn.Module) -> Optional[Regions]:
    """What replays these RoI heads; None if a step of theirs is not stock."""
    known: Tuple[Type[Regions], ...] = (StandardRegions, CascadeRegions)
    fitting = [cls for cls in known if replayable(heads, cls.replays)]
    if not fitting or getattr(heads, "train_on_pred_boxes", False):
        return None
    return fitting[0](heads)


def as_proposals(proposals: List[Instances]) -> List[Instances]:
    """Boxes alone, without what labels a student's proposals carry."""
    return [Instances(x.image_size, proposal_boxes=x.proposal_boxes) for x in proposals]
