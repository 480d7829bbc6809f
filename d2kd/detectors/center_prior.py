"""Which cells may stand for a box, and how near its center they are (AutoAssign)."""

from typing import List, NamedTuple, Tuple

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from ..losses.box import centers, intersection_and_union
from .assigner import image_of_box

_ELEMENTS = 2**21  # pairs of box and cell in memory at a time


class Pairs(NamedTuple):
    """The boxes of N images, and the P cells that may stand for them, box after box.

    Attributes:
        boxes: (G, 4) XYXY px.
        classes: (G,) long.
        images: (G,) long, index of the image.
        counts: boxes of each image.
        box: (P,) long, index of the box.
        row: (P,) long, index of the cell, of N * R.
        prior: (P,) in [0, 1].
    """

    boxes: Tensor
    classes: Tensor
    images: Tensor
    counts: List[int]
    box: Tensor
    row: Tensor
    prior: Tensor


class CenterPrior(nn.Module):
    """A Gaussian per class around the centers of boxes, in strides of the cell's level.

    exp(-sum over x, y of (u - mean)^2 / (2 sigma^2)), with u the way from the center of the box to
    the cell: the center weighting of Zhu et al. (arXiv 2007.03496). `mean` and `sigma` (K, 2) are
    trained.
    """

    def __init__(self, num_classes: int) -> None:
        """Start every class at mean 0 and sigma 1."""
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(num_classes, 2))
        self.sigma = nn.Parameter(torch.ones(num_classes, 2))

    def forward(self, points: Tensor, strides: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
        """The prior of points for boxes, of broadcast shapes.

        Args:
            points: (..., 2) px.
            strides: (...) of their levels, px.
            boxes: (..., 4) XYXY px.
            classes: (...) long; K and more stands for the mean of all classes (ours).

        Returns:
            Tensor: (...) in [0, 1].
        """
        index = classes.flatten().clamp(max=len(self.mean))
        mean, sigma = (
            torch.cat([x, x.mean(0, keepdim=True)]).index_select(0, index).view(*classes.shape, 2)
            for x in (self.mean, self.sigma)
        )
        way = (points - centers(boxes)) / strides[..., None]
        return (((way - mean) / sigma).square().sum(-1) / -2).exp()

    def pairs(
        self, points: Tensor, strides: Tensor, objects: List[Instances], top_k: int = 0
    ) -> Pairs:
        """The cells strictly inside each box, of all levels.

        Args:
            points: (R, 2) px.
            strides: (R,) of their levels, px.
            objects: N `Instances` with gt_boxes (XYXY px) and gt_classes.
            top_k: cells of largest prior that a box gets which contains none; 0 for none.
        """
        of_images = [x.gt_boxes.tensor for x in objects]
        images, boxes = image_of_box(of_images), torch.cat(of_images)
        classes = torch.cat([x.gt_classes for x in objects])
        box, cell = self._indices(points, strides, boxes, classes, top_k)
        prior = self(points[cell], strides[cell], boxes[box], classes[box])
        row = images[box] * len(points) + cell
        return Pairs(boxes, classes, images, [len(x) for x in objects], box, row, prior)

    @torch.no_grad()
    def _indices(
        self, points: Tensor, strides: Tensor, boxes: Tensor, classes: Tensor, top_k: int
    ) -> Tuple[Tensor, Tensor]:
        found, start = [(classes[:0], classes[:0])], 0
        step = max(_ELEMENTS // len(points), 1)
        for part, kinds in zip(boxes.split(step), classes.split(step), strict=True):
            inside = _inside(points, part)
            if top_k > 0:
                prior = self(points, strides, part[:, None], kinds[:, None])
                best = prior.topk(min(top_k, len(points)), 1).indices
                nearest = torch.zeros_like(inside).scatter_(1, best, True)
                inside |= nearest & ~inside.any(1, keepdim=True)
            box, cell = inside.nonzero(as_tuple=True)
            found.append((box + start, cell))
            start += len(part)
        box, cell = (torch.cat(x) for x in zip(*found, strict=True))
        return box, cell

    @torch.no_grad()
    def largest(self, points: Tensor, strides: Tensor, objects: List[Instances]) -> Tensor:
        """For each cell the box of largest prior that contains it, the first of equal ones.

        The host does not wait for the device.

        Args:
            points, strides, objects: see `pairs`.

        Returns:
            Tensor: (N, R) long, row of the boxes of all images, G in no box.
        """
        total, start, rows = sum(len(x) for x in objects), 0, []
        for x in objects:
            best = points.new_full((len(points),), -1)
            match = torch.full_like(best, total, dtype=torch.int64)
            step = max(_ELEMENTS // len(points), 1)
            parts = zip(x.gt_boxes.tensor.split(step), x.gt_classes.split(step), strict=True)
            for boxes, classes in parts if len(x) else ():
                prior = self(points, strides, boxes[:, None], classes[:, None])
                value, index = prior.where(_inside(points, boxes), -1).max(0)
                match = torch.where(value > best, index + start, match)
                best, start = torch.maximum(value, best), start + len(boxes)
            rows.append(match)
        return torch.stack(rows)


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(G, R) bool."""
    x, y = points.unbind(1)
    x1, y1, x2, y2 = boxes[..., None].unbind(1)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


@torch.no_grad()
def best_overlap(predicted: Tensor, boxes: Tensor) -> Tensor:
    """(R,) largest IoU of each prediction (R, 4) with any of the boxes (G, 4); 0 without boxes."""
    best = predicted.new_zeros(len(predicted))
    for part in boxes.split(max(_ELEMENTS // len(predicted), 1)) if len(boxes) else ():
        inner, union = intersection_and_union(predicted, part[:, None])
        best = torch.maximum(best, (inner / union).amax(0))
    return best
