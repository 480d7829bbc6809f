"""Steps of dense inference as mmdetection orders them: select by class score, clip, suppress."""

from typing import List, Tuple

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor


def select(scores: Tensor, threshold: float, topk: int) -> Tuple[Tensor, Tensor, Tensor]:
    """The best (cell, class) pairs of a level.

    Args:
        scores: (HWA, K) in [0, 1].
        threshold: score that a pair must exceed.
        topk: pairs kept at most.

    Returns:
        Tuple: scores, cells and classes, each (n,), best first.
    """
    index = (scores > threshold).nonzero()
    values, order = scores[index[:, 0], index[:, 1]].topk(min(len(index), topk))
    cells, classes = index[order].unbind(1)
    return values, cells, classes


def with_quality(scores: Tensor, quality: Tensor) -> Tensor:
    """Scores (n,) times the probability of the quality logits (n,)."""
    return scores * quality.float().sigmoid()


def suppress(
    levels: List[Tuple[Tensor, Tensor, Tensor]],
    size: Tuple[int, int],
    nms_threshold: float,
    limit: int,
    clip: bool = True,
) -> Instances:
    """Clip to the image, then class-wise NMS over all levels.

    Args:
        levels: boxes (n, 4) XYXY px, scores (n,) and classes (n,) of each level.
        size: height and width of the image, px.
        nms_threshold: IoU above which the lower score goes.
        limit: detections kept at most.
        clip: False leaves the boxes as they are.
    """
    tensors, scores, classes = (torch.cat(x) for x in zip(*levels, strict=True))
    boxes = Boxes(tensors)
    if clip:
        boxes.clip(size)
    keep = batched_nms(boxes.tensor, scores, classes, nms_threshold)[:limit]
    return Instances(size, pred_boxes=boxes[keep], scores=scores[keep], pred_classes=classes[keep])
