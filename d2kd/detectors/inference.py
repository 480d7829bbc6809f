"""Steps of dense inference as mmdetection orders them: select by class score, clip, suppress."""

from typing import Any, Callable, Iterable, List, Mapping, Sequence, Tuple

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
    """Scores (...) times the probability of quality logits that broadcast to them."""
    return scores * quality.float().sigmoid()


def detect(
    on_level: Callable[..., Tuple[Tensor, Tensor, Tensor]],
    predictions: Iterable[Sequence[Tensor]],
    places: Sequence[Mapping[str, Any]],
    sizes: Sequence[Tuple[int, int]],
    *limits: Any,
) -> List[Instances]:
    """Detections of each image.

    Args:
        on_level: finds what `suppress` takes, from a level's predictions and place.
        predictions: each kind by level, (N, HWA, D).
        places: by level, further arguments of `on_level`.
        sizes: height and width of each image, px.
        limits: further arguments of `suppress`.
    """
    levels = list(zip(*predictions, places, strict=True))
    found = (
        [on_level(*(x[i] for x in maps), **place) for *maps, place in levels]
        for i in range(len(sizes))
    )
    return [suppress(x, size, *limits) for x, size in zip(found, sizes, strict=True)]


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
