"""A dense detector as one graph of tensors: an image in, boxes, scores and classes out."""

import copy
from typing import ClassVar, List, Tuple

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms

from ..adapters import DetectorOutput, build_adapter
from ..errors import ConfigError
from .base import Graph
from .options import Options
from .rules import rule_of

_NEED = frozenset({"logits", "deltas", "quality", "scores", "anchors"})


class AllBoxes(Graph):
    """Every box of every level, as NMS would get it: (A, 4) XYXY px, and scores (A, K)."""

    names: Tuple[str, ...] = ("boxes", "scores")
    limits: ClassVar = {
        "score_threshold": "test_score_thresh",
        "nms_threshold": "test_nms_thresh",
        "topk": "test_topk_candidates",
        "max_detections": "max_detections_per_image",
    }

    def __init__(self, detector: DenseDetector, options: Options) -> None:
        """See the base class."""
        super().__init__(detector, options)
        self.size, self.rule = options.size, rule_of(detector)
        self._adapter = build_adapter(detector)

    @classmethod
    def check(cls, detector: nn.Module, options: Options) -> None:
        """See the base class."""
        if options.masks == "pasted":
            name = type(detector).__name__
            raise ConfigError(f"masks='pasted' is for Mask R-CNN; this {name} has no masks.")

    def predict(self, image: Tensor) -> DetectorOutput:
        """Raw predictions on an image (1, 3, H, W) in 0..255."""
        normalized = (image - self.detector.pixel_mean) / self.detector.pixel_std
        need = _NEED & self._adapter.provides
        return self._adapter(ImageList(normalized, [self.size]), None, need)

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """An image (1, 3, H, W) in 0..255 to the tensors of `names`."""
        out = self.predict(image)
        boxes = torch.cat(list(self._adapter.decode(out).values()), 1)[0]
        scores = torch.cat([self._scores(out, stride)[1] for stride in out.logits])
        return self._before_nms(boxes), scores

    def reference(self, image: Tensor) -> Tuple[Tensor, ...]:
        """The same steps in PyTorch: the detector's own inference has NMS."""
        return self(image)

    def _before_nms(self, boxes: Tensor) -> Tensor:
        return clip_boxes_to_image(boxes, self.size) if self.rule.clip_first else boxes

    def _scores(self, out: DetectorOutput, stride: int) -> Tuple[Tensor, Tensor]:
        scores, rescore = out.scores[stride][0], self.rule.rescore
        return (scores, scores) if rescore is None else rescore(scores, out.quality[stride][0])


class Detections(AllBoxes):
    """The detections of the stock inference: boxes (N, 4) XYXY px, scores (N,), classes (N,)."""

    names, reference = Graph.names, Graph.reference

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """See the base class."""
        out = self.predict(image)
        levels = [self._select(out, stride) for stride in out.logits]
        boxes, chosen, scores, classes = (torch.cat(x) for x in zip(*levels, strict=True))
        index = (chosen > self.detector.test_score_thresh).nonzero()[:, 0]
        boxes, scores, classes = boxes[index], scores[index], classes[index]
        boxes = self._before_nms(boxes)
        keep = classwise_nms(boxes, scores, classes, self.detector.test_nms_thresh)
        keep = keep[: self.detector.max_detections_per_image]
        boxes = clip_boxes_to_image(boxes[keep], self.size)
        there = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).nonzero()[:, 0]
        return boxes[there], scores[keep][there], classes[keep][there]

    def _select(self, out: DetectorOutput, stride: int) -> List[Tensor]:
        """The `topk` best of a level: boxes, selecting scores, final scores and classes."""
        chosen, final = self._scores(out, stride)
        num_classes = chosen.shape[1]
        values, index = chosen.flatten().topk(
            min(self.detector.test_topk_candidates, chosen.numel())
        )
        cells = index // num_classes
        part = copy.copy(out)
        part.deltas = {stride: out.deltas[stride][:, cells]}
        part.anchors = {stride: Boxes(out.anchors[stride].tensor[cells])}
        boxes = self._adapter.decode(part)[stride][0]
        return [boxes, values, final.flatten()[index], index % num_classes]


def classwise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Indices that NMS within each class keeps, best first.

    Boxes of different classes are moved apart, as torchvision's `batched_nms` does for up to 1,000
    boxes; its branch on their number cannot be in a graph. Two empty boxes, which suppress nothing
    and come last, make it work for no box at all: torchvision tells torch.export that NMS keeps at
    least two.

    Args:
        boxes: (n, 4) XYXY px.
        scores: (n,) in [0, 1].
        classes: (n,) long.
        threshold: IoU above which the lower score goes.
    """
    boxes = torch.cat([boxes, boxes.new_zeros(2, 4)])
    scores = torch.cat([scores, scores.new_full((2,), -1.0)])
    classes = torch.cat([classes, classes.new_zeros(2)])
    return nms(boxes + (classes * (boxes.max() + 1))[:, None], scores, threshold)[:-2]
