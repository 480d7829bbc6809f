"""Key predictive regions and their weights (PGD, ECCV 2022, arXiv 2203.05469, section 3)."""

from typing import Iterator, List, Sequence, Tuple

import torch
from torch import Tensor

_ELEMENTS = {"cpu": 2**18}  # pairs of box and anchor in memory at a time: a core's cache
_ELEMENTS_GPU = 2**25
_RIDGE = 1 / 1200  # px^2: variance of the released code's noise, uniform in [-0.05, 0.05)


@torch.no_grad()
def key_region_weights(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    valid: Tensor,
    gt: Tensor,
    rows: Tensor,
    exponents: Sequence[float],
    top_k: int,
    swap_axes: bool = False,
) -> List[Tensor]:
    """Weights of the locations from which a teacher predicts the objects of a batch best.

    The quality of prediction j for object g is p^(1 - xi) * IoU^xi, with p the score of g's class
    and the decoded box, both the teacher's. The key region of g is the `top_k` locations of largest
    quality over all levels. A Gaussian is fitted to their points (maximum likelihood, plus a ridge
    of 1/1200 px^2) and gives each a weight exp(-d^2 / 2), d its Mahalanobis distance, 0 outside the
    object's box; the largest over the objects stays.

    The released code adds noise in place of the ridge. Ours: locations of quality 0 and in batch
    padding are never members, so a region may have fewer than `top_k`; with several anchors a
    location, the best one counts.

    Args:
        scores: (N, P * A, K) class scores in [0, 1], A anchors at each of P points.
        boxes: (N, P * A, 4) decoded boxes, XYXY px.
        points: (P, 2) x, y in px.
        valid: (N, P) bool, False in batch padding.
        gt: (G, 4) objects of the whole batch, XYXY px; any image may have none.
        rows: (2, G) long, the image and the class of each object.
        exponents: xi in [0, 1], one per map.
        top_k: size of a key region.
        swap_axes: take y for x in the inside test, as released for FCOS.

    Returns:
        List[Tensor]: for each xi (N, P) in {0} or [exp(-(top_k - 1) / 2), 1], float32.
    """
    maps = [boxes.new_zeros(valid.numel()) for _ in exponents]
    if len(gt) == 0:
        return [x.view(valid.shape) for x in maps]
    found = zip(*_members(scores, boxes, valid, gt, rows, exponents, top_k), strict=True)
    for x, chunks in zip(maps, found, strict=True):
        index, member = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        weight = gaussian_weights(points[index], member)
        weight = weight * _inside(points[index], gt[:, None], swap_axes)
        cells = index + rows[0, :, None] * len(points)
        x.scatter_reduce_(0, cells.flatten(), weight.flatten(), "amax")
    return [x.view(valid.shape) for x in maps]


def gaussian_weights(points: Tensor, member: Tensor) -> Tensor:
    """Density, 1 at its peak, of a Gaussian fitted to the members of each set of points.

    In float64, by the Cholesky factor of the covariance: in float32 the determinant of points on
    an oblique line is lost from a spread of 100 px on.

    Args:
        points: (..., k, 2) px, right to 1e-5 for spreads up to 10,000 px.
        member: (..., k) bool.

    Returns:
        Tensor: (..., k) in [0, 1], of the points' type; 0 for those that are no members.
    """
    share = member.double() / member.sum(-1, keepdim=True).clamp(min=1)
    exact = points.double()
    x, y = (exact - (exact * share[..., None]).sum(-2, keepdim=True)).unbind(-1)
    xx = (x * x * share).sum(-1, keepdim=True) + _RIDGE
    slope = (x * y * share).sum(-1, keepdim=True) / xx
    rest = y - slope * x  # what x does not tell of y
    ridge = _RIDGE * (1 + slope * slope)
    distance = x * x / xx + rest * rest / ((rest * rest * share).sum(-1, keepdim=True) + ridge)
    return (torch.exp(-distance / 2) * member).to(points.dtype)


@torch.no_grad()
def covered(points: Tensor, gt: Tensor, images: Tensor, num_images: int, swap_axes: bool) -> Tensor:
    """Which points lie strictly inside an object of their image.

    Args:
        points: (P, 2) px.
        gt: (G, 4) XYXY px.
        images: (G,) image of each object.
        num_images: N.
        swap_axes: see `key_region_weights`.

    Returns:
        Tensor: (N, P) bool.
    """
    counts = torch.zeros(num_images, len(points), dtype=torch.int16, device=points.device)
    step = _rows_at_a_time(len(points), points.device)
    for boxes, index in zip(gt.split(step), images.split(step), strict=True):
        counts.index_add_(0, index, _inside(points[None], boxes[:, None], swap_axes).short())
    return counts > 0


def _inside(points: Tensor, gt: Tensor, swap_axes: bool) -> Tensor:
    x, y = points.flip(-1).unbind(-1) if swap_axes else points.unbind(-1)
    x1, y1, x2, y2 = gt.unbind(-1)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def _members(
    scores: Tensor,
    boxes: Tensor,
    valid: Tensor,
    gt: Tensor,
    rows: Tensor,
    exponents: Sequence[float],
    top_k: int,
) -> Iterator[List[Tuple[Tensor, Tensor]]]:
    """Per chunk of objects and per exponent: indices (g, k) of points, whether they are members."""
    per_point = boxes.shape[1] // valid.shape[1]
    on_image = valid.repeat_interleave(per_point, dim=1)
    table, row = _class_scores(scores, on_image, rows)
    powers = [_powers(xi) for xi in exponents]
    tables = [table.pow(b) for _, b in powers]
    boxes = (boxes * on_image[..., None]).permute(2, 0, 1)
    areas = (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])
    predictions = torch.cat([boxes, areas[None]])
    step = _rows_at_a_time(areas.shape[1], areas.device)
    for image, box, i in zip(rows[0].split(step), gt.split(step), row.split(step), strict=True):
        iou = _pairwise_iou(predictions, image, box)
        chunk = []
        for (a, _), table in zip(powers, tables, strict=True):
            key = table.index_select(0, i).mul_(iou if a == 1 else iou.pow(a))
            if per_point > 1:
                key = key.unflatten(1, (-1, per_point)).amax(2)
            value, index = key.topk(min(top_k, key.shape[1]), dim=1, sorted=False)
            chunk.append((index, value > 0))
        yield chunk


def _class_scores(scores: Tensor, on_image: Tensor, rows: Tensor) -> Tuple[Tensor, Tensor]:
    """A table (rows, PA) of scores, 0 in padding, and the row of each object in it.

    It has a row for each object or, where these are fewer, for each class of each image.
    """
    num_images, _, classes = scores.shape
    images, of_class = rows
    if len(images) < num_images * classes:
        table = scores.transpose(1, 2)[images, of_class] * on_image[images]
        return table, torch.arange(len(images), device=images.device)
    table = (scores * on_image[..., None]).transpose(1, 2).flatten(0, 1)
    return table, images * classes + of_class


def _powers(xi: float) -> Tuple[float, float]:
    """(a, b), one of them 1, so that IoU^a * p^b ranks as p^(1 - xi) * IoU^xi.

    With a = 1, no pair of object and prediction needs a power.
    """
    return (1.0, (1 - xi) / xi) if xi >= 0.5 else (xi / (1 - xi), 1.0)


def _pairwise_iou(predictions: Tensor, images: Tensor, gt: Tensor) -> Tensor:
    """(g, PA) IoU of g boxes, XYXY px, with the predictions of their images.

    `predictions` is (5, N, PA): corners and areas. Every operation works in place.
    """
    x1, y1, x2, y2, area = (x.index_select(0, images) for x in predictions)
    left, top, right, bottom = gt[:, :, None].unbind(1)
    width = x2.clamp_(max=right).sub_(x1.clamp_(min=left)).clamp_(min=0)
    height = y2.clamp_(max=bottom).sub_(y1.clamp_(min=top)).clamp_(min=0)
    inner = width.mul_(height)
    union = area.add_((right - left) * (bottom - top)).sub_(inner).clamp_(min=1e-6)
    return inner.div_(union)


def _rows_at_a_time(columns: int, device: torch.device) -> int:
    return max(_ELEMENTS.get(device.type, _ELEMENTS_GPU) // max(columns, 1), 1)
