"""Sets of two-stage detectors, and which of their regions a set's boxes belong to."""

from typing import List

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from ..detectors import Predicted
from .output import RoIOutput
from .regions import Pyramid, Regions
from .sets import clipped, suppressed


def region_sets(
    regions: Regions, pyramid: Pyramid, proposals: List[Instances], least: float
) -> Predicted:
    """A teacher's boxes with the probabilities of all classes, suppressed as in inference.

    As stock inference has it, probabilities are the mean of all stages and boxes the last one's; of
    a proposal's boxes, that of its likeliest class is taken.

    Args:
        regions: of the teacher, in eval mode.
        pyramid: its maps by name.
        proposals: of its RPN.
        least: score that the likeliest class must exceed.
    """
    sizes = [x.image_size for x in proposals]
    boxes: List[Tensor] = []
    stages = []
    for index in range(regions.num_stages):
        if index > 0:
            proposals = regions.heads._create_proposals_from_boxes(boxes, sizes)
        stage, predictor = regions.stage(pyramid, proposals, index), regions.predictor(index)
        predictions = stage.logits, stage.deltas
        boxes = list(predictor.predict_boxes(predictions, proposals))
        stages.append(predictor.predict_probs(predictions, proposals))
    means = [torch.stack(rows).float().mean(0)[:, :-1] for rows in zip(*stages, strict=True)]
    pairs = zip(boxes, means, strict=True)
    chosen = [box_of(b.unflatten(1, (-1, 4)), p.argmax(1)) for b, p in pairs]
    return suppressed(
        clipped(chosen, sizes), means, regions.exclusive, least=least,
        nms=predictor.test_nms_thresh, limit=predictor.test_topk_per_image,
    )  # fmt: skip


def box_of(boxes: Tensor, classes: Tensor) -> Tensor:
    """Boxes (R, 4) of classes (R,), of (R, K, 4) or, without classes, (R, 1, 4)."""
    if boxes.shape[1] == 1:
        return boxes[:, 0]
    return boxes.gather(1, classes[:, None, None].expand(-1, 1, 4))[:, 0]


def assign_regions(regions: Regions, stages: List[RoIOutput], boxes: Tensor) -> List[Tensor]:
    """See `DetectorAdapter.assign`; each stage has its own matcher, which waits once an image."""
    found = []
    for index, stage in enumerate(stages):
        pairs = zip(boxes, stage.proposals, strict=True)
        found.append(torch.cat([_match(regions.matcher(index), *pair) for pair in pairs]))
    return found


def _match(matcher: Matcher, boxes: Tensor, proposals: Instances) -> Tensor:
    place, label = matcher(pairwise_iou(Boxes(boxes), proposals.proposal_boxes))
    return torch.where(label == 1, place, label.long() - 1)


def decode_regions(regions: Regions, stage: RoIOutput, index: int) -> Tensor:
    """See `DetectorAdapter.decode_regions`."""
    predictor = regions.predictor(index)
    boxes = predictor.predict_boxes((stage.logits, stage.deltas), stage.proposals)
    return torch.cat(list(boxes)).unflatten(1, (-1, 4))
