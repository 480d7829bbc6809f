"""A dense detector as one graph of tensors: images in, boxes, scores and classes out."""

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
    """Every box of every level, as NMS would get it: (A, 4) XYXY px, and scores (A, K).

    With a dynamic batch (N, A, 4) and (N, A, K).
    """

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
        self.rule = rule_of(detector)
        self._adapter = build_adapter(detector)

    @classmethod
    def check(cls, detector: nn.Module, options: Options) -> None:
        """See the base class."""
        if options.masks == "pasted":
            name = type(detector).__name__
            raise ConfigError(f"masks='pasted' is for Mask R-CNN; this {name} has no masks.")
        same = [x for x, y in detector.named_modules() if type(y).__name__.endswith("Same")]
        if options.dynamic_size and same:
            raise ConfigError(
                f"dynamic_size (--dynamic-size): {same[0]} pads by the size of the image, as in "
                "timm's tf_* models, which torch.export does not finish: export each size."
            )

    def predict(self, image: Tensor) -> DetectorOutput:
        """Raw predictions on images (N, 3, H, W) in 0..255."""
        normalized = (image - self.detector.pixel_mean) / self.detector.pixel_std
        need = _NEED & self._adapter.provides
        return self._adapter(ImageList(normalized, [image.shape[-2:]]), None, need)

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Images (N, 3, H, W) in 0..255 to the tensors of `names`."""
        out = self.predict(image)
        boxes = torch.cat([self._decode(out, s, out.deltas[s]) for s in out.logits], 1)
        scores = torch.cat([self._scores(out, s)[1] for s in out.logits], 1)
        boxes = self._before_nms(boxes, image)
        return (boxes, scores) if self.options.dynamic_batch else (boxes[0], scores[0])

    def reference(self, image: Tensor) -> Tuple[Tensor, ...]:
        """The same steps in PyTorch: the detector's own inference has NMS."""
        return tuple(x.flatten(0, -2) for x in self(image))

    def _before_nms(self, boxes: Tensor, image: Tensor) -> Tensor:
        return clip_boxes_to_image(boxes, image.shape[-2:]) if self.rule.clip_first else boxes

    def _scores(self, out: DetectorOutput, stride: int) -> Tuple[Tensor, Tensor]:
        scores, rescore = out.scores[stride], self.rule.rescore
        return (scores, scores) if rescore is None else rescore(scores, out.quality[stride])

    def _decode(
        self, out: DetectorOutput, stride: int, deltas: Tensor, cells: Tensor | None = None
    ) -> Tensor:
        """Boxes (N, n, 4) of deltas (N, n, D) of a level's `cells` (N, n), or of all of them.

        All images are decoded as one: adapters ask for the number of images, which would fix it.
        """
        anchors = out.anchors[stride].tensor
        every = anchors.expand(deltas.shape[0], -1, -1) if cells is None else anchors[cells]
        part = copy.copy(out)
        part.deltas = {stride: deltas.flatten(0, 1)[None]}
        part.anchors = {stride: Boxes(every.flatten(0, 1))}
        return self._adapter.decode(part)[stride].unflatten(1, deltas.shape[:2])[0]


class Detections(AllBoxes):
    """The detections of the stock inference: boxes (N, 4) XYXY px, scores (N,), classes (N,).

    With a dynamic batch those of all images, best first, and "images" (N,), whose they are.
    """

    def __init__(self, detector: DenseDetector, options: Options) -> None:
        """See the base class."""
        super().__init__(detector, options)
        self.names = (*Graph.names, "images") if options.dynamic_batch else Graph.names

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """See the base class."""
        out = self.predict(image)
        levels = [self._select(out, stride) for stride in out.logits]
        candidates = [torch.cat(x, 1) for x in zip(*levels, strict=True)]
        images, places = (candidates[0] > self.detector.test_score_thresh).nonzero().unbind(1)
        boxes, scores, classes = (x[images, places] for x in candidates[1:])
        boxes = self._before_nms(boxes, image)
        keep = classwise_nms(boxes, scores, classes, self.detector.test_nms_thresh, images)
        keep = self._limit(keep, images, image)
        boxes = clip_boxes_to_image(boxes[keep], image.shape[-2:])
        there = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).nonzero()[:, 0]
        found = boxes, scores[keep], classes[keep], images[keep]
        return tuple(x[there] for x in found[: len(self.names)])

    reference = Graph.reference

    def _limit(self, keep: Tensor, images: Tensor, image: Tensor) -> Tensor:
        """The best of each image."""
        limit = self.detector.max_detections_per_image
        if not self.options.dynamic_batch:
            return keep[:limit]
        own = images[keep][:, None] == torch.arange(image.shape[0])
        rank = (own.cumsum(0) * own).sum(1)
        return keep[(rank <= limit).nonzero()[:, 0]]

    def _select(self, out: DetectorOutput, stride: int) -> List[Tensor]:
        """The `topk` best of a level, (N, n): selecting scores, boxes, final scores, classes."""
        chosen, final = self._scores(out, stride)
        cells, num_classes = chosen.shape[1:]
        limit = torch.sym_min(self.detector.test_topk_candidates, cells * num_classes)
        values, index = chosen.flatten(1).topk(limit)
        cell = index // num_classes
        deltas = out.deltas[stride]
        picked = deltas.gather(1, cell[:, :, None].expand(-1, -1, deltas.shape[2]))
        boxes = self._decode(out, stride, picked, cell)
        return [values, boxes, final.flatten(1).gather(1, index), index % num_classes]


def classwise_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, images: Tensor
) -> Tensor:
    """Indices that NMS within each class of each image keeps, best first.

    Boxes of different classes are moved apart, as torchvision's `batched_nms` does for up to 1,000
    boxes; its branch on their number cannot be in a graph. Those of images are moved down alone, so
    that coordinates stay small enough to be exact. Two empty boxes, which suppress nothing and come
    last, make it work for no box at all: torchvision tells torch.export that NMS keeps at least
    two.

    Args:
        boxes: (n, 4) XYXY px.
        scores: (n,) in [0, 1].
        classes, images: (n,) long.
        threshold: IoU above which the lower score goes.
    """
    boxes = torch.cat([boxes, boxes.new_zeros(2, 4)])
    scores = torch.cat([scores, scores.new_full((2,), -1.0)])
    classes, images = (torch.cat([x, x.new_zeros(2)]) for x in (classes, images))
    right = classes * (boxes.max() + 1)
    down = right + images * (boxes.max() - boxes.min() + 1)
    return nms(boxes + torch.stack([right, down, right, down], 1), scores, threshold)[:-2]
