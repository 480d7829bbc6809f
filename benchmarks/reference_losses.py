"""The formulas of d2kd's losses as a reader of the papers would write them down.

Level by level, with softmax and logarithm spelled out, positives picked by boolean index, objects
in a loop. `levels` are pairs of student and teacher tensors of each FPN level.
"""

from typing import Callable, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from d2kd.heads.receptive_tokens import LevelTokens

Levels = List[Tuple[Tensor, Tensor]]


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)) over the last axis."""
    p = F.log_softmax(student / temperature, dim=-1)
    q = F.softmax(teacher / temperature, dim=-1)
    return F.kl_div(p, q, reduction="none").sum(-1) * temperature**2


def pearson(levels: Levels, eps: float = 1e-6) -> Tensor:
    """PKD."""

    def standardize(x: Tensor) -> Tensor:
        x = x.transpose(0, 1).flatten(1)
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + eps)

    return sum(F.mse_loss(standardize(s), standardize(t)) / 2 for s, t in levels)


def align(student: Tensor, teacher: Tensor, eps: float = 1e-6) -> Tensor:
    """CrossKD's change of statistics."""
    axes = 0, 2, 3
    standard = (student - student.mean(axes, keepdim=True)) / (
        student.std(axes, keepdim=True) + eps
    )
    return standard * teacher.std(axes, keepdim=True) + teacher.mean(axes, keepdim=True)


def channel_wise(levels: Levels, temperature: float = 1.0) -> Tensor:
    """CWD."""
    return sum(kl(s.flatten(2), t.flatten(2), temperature).mean() for s, t in levels)


def hints(levels: Levels, project: Sequence[Callable]) -> Tensor:
    """FitNets."""
    return sum(F.mse_loss(f(s), t) for (s, t), f in zip(levels, project, strict=True))


def receptive(
    levels: Levels, project: Sequence[Callable], tokens: Sequence[LevelTokens], weight: float
) -> Tensor:
    """MasKD after its warm-up, as released: both maps under every mask."""
    total = 0.0
    for (s, t), f, level in zip(levels, project, tokens, strict=True):
        s = f(s)
        with torch.no_grad():
            masks = [torch.einsum("tc,nchw->nthw", level.tokens, x).sigmoid() for x in (s, t)]
            masks = masks[0] * masks[1]
            p = level.mix(level.conv(t).mean((2, 3))).softmax(1)
        error = (masks[:, :, None] * s[:, None] - masks[:, :, None] * t[:, None]).square()
        error = error.mean(2).sum((2, 3)) / masks.sum((2, 3))
        total = total + weight * (p * error).sum() / len(s)
    return total


def generative(levels: Levels, generate: Sequence[Callable], alpha: float, ratio: float) -> Tensor:
    """MGD."""
    total = 0.0
    for (s, t), generator in zip(levels, generate, strict=True):
        noise = torch.rand((len(s), 1, *s.shape[2:]), device=s.device)
        mask = torch.where(noise < ratio, 0.0, 1.0)
        total = total + alpha * F.mse_loss(generator(s * mask), t, reduction="sum") / len(s)
    return total


def standardized(levels: Levels) -> Tensor:
    """CanKD without its attention."""
    return sum(F.mse_loss(F.instance_norm(s), F.instance_norm(t)) / 2 for s, t in levels)


def directions(maps: List[Tensor], teacher: Tensor, project: Sequence[Callable]) -> Tensor:
    """VFM where every cell lies on an image, from a coarser or equal map of the teacher."""
    total = 0.0
    for x, f in zip(maps, project, strict=True):
        t = F.interpolate(teacher, x.shape[2:], mode="bilinear", align_corners=False)
        total = total + (1 - (F.normalize(f(x), dim=1) * F.normalize(t, dim=1)).sum(1)).mean()
    return total


@torch.no_grad()
def masks(s: Tensor, t: Tensor, temperature: float) -> Tuple[Tensor, Tensor]:
    """Structured KD's masks over cells and channels."""
    (n, c, h, w), spatial, channel = s.shape, 0.0, 0.0
    for x in (s, t):
        cells = F.softmax(x.abs().mean(1).view(n, -1) / temperature, dim=1)
        spatial = spatial + h * w * cells.view(n, 1, h, w) / 2
        channels = F.softmax(x.abs().mean((2, 3)) / temperature, dim=1)
        channel = channel + c * channels.view(n, c, 1, 1) / 2
    return spatial, channel


def masked_features(levels: Levels, project: Sequence[Callable], temperature: float) -> Tensor:
    """Structured KD's masked distance of features."""
    total = 0.0
    for (s, t), adapt in zip(levels, project, strict=True):
        spatial, channel = masks(s, t, temperature)
        total = total + ((adapt(s) - t) ** 2 * spatial * channel).sum().sqrt()
    return total


def attention_transfer(
    levels: Levels, over_cells: Sequence[Callable], over_channels: Sequence[Callable]
) -> Tensor:
    """Structured KD's distances of pooled maps."""
    total = 0.0
    for (s, t), channel, spatial in zip(levels, over_cells, over_channels, strict=True):
        total = total + ((channel(s.mean((2, 3))) - t.mean((2, 3))) ** 2).sum().sqrt()
        total = total + ((spatial(s.mean(1, True)) - t.mean(1, True)) ** 2).sum().sqrt()
    return total


def binary(levels: Levels, weights: List[Tensor]) -> Tensor:
    """BCKD's sum over classes and locations, also CrossKD's and Parallel's."""
    total = 0.0
    for (s, t), weight in zip(levels, weights, strict=True):
        p, q = s.sigmoid(), t.sigmoid()
        loss = F.binary_cross_entropy_with_logits(s, q, reduction="none")
        total = total + (weight[..., None] * (q - p).abs() * loss).sum()
    return total


def iou_loss(a: Tensor, b: Tensor, kind: str = "giou", eps: float = 1e-6) -> Tensor:
    """1 - (G)IoU of paired boxes."""
    low, high = torch.max(a[..., :2], b[..., :2]), torch.min(a[..., 2:], b[..., 2:])
    wh = (high - low).clamp(min=0)
    inner = wh[..., 0] * wh[..., 1]
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    union = (area_a + area_b - inner).clamp(min=eps)
    if kind == "iou":
        return 1 - inner / union
    wh = torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])
    outer = (wh[..., 0] * wh[..., 1]).clamp(min=eps)
    return 1 - inner / union + (outer - union) / outer


def iou(levels: Levels, weights: Sequence[Tensor]) -> Tensor:
    """BCKD's and CrossKD's sum over boxes."""
    pairs = zip(levels, weights, strict=True)
    return sum((iou_loss(s, t.detach()) * weight).sum() for (s, t), weight in pairs)


def log_iou(levels: Levels, weights: Sequence[Tensor]) -> Tensor:
    """CrossKD's sum over distances, where the teacher's box has an area."""
    total = 0.0
    for (s, t), weight in zip(levels, weights, strict=True):
        weight = weight * ((t[..., 2:] - t[..., :2]) > 0).all(-1)
        overlap = 1 - iou_loss(s, t.detach(), "iou")
        total = total - (overlap.clamp(min=1e-6).log() * weight).sum()
    return total


def distributions(levels: Levels, weights: Sequence[Tensor]) -> Tensor:
    """CrossKD's and Parallel's weighted mean over boxes of the divergence of a side."""
    pairs = zip(levels, weights, strict=True)
    total = sum((kl(s, t).mean(-1) * weight).sum() for (s, t), weight in pairs)
    return total / sum(weight.sum() for weight in weights)


def chosen_sides(levels: Levels, weights: Sequence[Tensor]) -> Tensor:
    """LD's weighted sum over the boxes of weight above 0."""
    total = 0.0
    for (s, t), weight in zip(levels, weights, strict=True):
        chosen = weight > 0
        total = total + (kl(s[chosen], t[chosen]).mean(-1) * weight[chosen]).sum()
    return total


def classes_of_positives(levels: Levels, positive: Sequence[Tensor]) -> Tensor:
    """LD's sum over levels of the mean divergence of positives' classes, T = 2."""
    total = 0.0
    for (s, t), chosen in zip(levels, positive, strict=True):
        if chosen.any():
            total = total + kl(s[chosen], t[chosen], 2.0).mean() / s.shape[-1]
    return total


def positives(levels: Levels, positive: Sequence[Tensor]) -> Tensor:
    """CrossKD's sum over positives of the qualities' cross-entropy."""
    total = 0.0
    for (s, t), chosen in zip(levels, positive, strict=True):
        target = t[chosen].sigmoid()
        total = total + F.binary_cross_entropy_with_logits(s[chosen], target, reduction="sum")
    return total


def expected(logits: Tensor) -> Tensor:
    """Mean bin of each side of (..., 4 * bins)."""
    p = F.softmax(logits.view(*logits.shape[:-1], 4, -1), dim=-1)
    return (p * torch.arange(p.shape[-1], device=p.device)).sum(-1)


def distances_to_boxes(distances: Tensor, anchors: Tensor) -> Tensor:
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    return torch.cat([center - distances[..., :2], center + distances[..., 2:]], dim=-1)


def distribution_focal(logits: Tensor, targets: Tensor) -> Tensor:
    logits, targets = logits.view(targets.numel(), -1), targets.flatten()
    left = targets.long()
    return F.cross_entropy(logits, left, reduction="none") * (left + 1 - targets) + F.cross_entropy(
        logits, left + 1, reduction="none"
    ) * (targets - left)


def quality_focal(logits: Tensor, targets: Tensor) -> Tensor:
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return loss * (targets - logits.sigmoid()).abs() ** 2


def joint_focal(logits: Tensor, quality: Tensor, targets: Tensor) -> Tensor:
    joint = logits.sigmoid() * quality.sigmoid()
    return F.binary_cross_entropy(joint, targets, reduction="none") * (targets - joint).abs() ** 2


def valuable_region(
    anchors: List[Tensor], valid: Tensor, boxes: List[Tensor], gamma: float = 0.25
) -> Tensor:
    """LD's region with DIoU, object after object."""
    flat, weights = torch.cat(anchors), []
    centers = (flat[:, :2] + flat[:, 2:]) / 2
    for inside, objects in zip(valid, boxes, strict=True):
        weight = torch.zeros(len(flat), device=flat.device)
        for gt in objects:
            overlap = box_iou(flat, gt[None])[:, 0]
            gap = ((centers - (gt[:2] + gt[2:]) / 2) ** 2).sum(1)
            near = nearest(gap.masked_fill(~inside, torch.inf), [len(x) for x in anchors])
            threshold = overlap[near].mean() + overlap[near].std()
            outer = torch.max(flat[:, 2:], gt[2:]) - torch.min(flat[:, :2], gt[:2])
            diou = overlap - gap / (outer**2).sum(1)
            band = inside & (diou >= gamma * threshold) & (diou < threshold)
            weight[band] = torch.max(weight[band], overlap[band])
        weights.append(weight)
    return torch.stack(weights)


def nearest(gap: Tensor, sizes: List[int], topk: int = 9) -> Tensor:
    """Indices of the `topk` smallest finite gaps of each level."""
    found, start = [], 0
    for part in gap.split(sizes):
        values, index = part.topk(min(topk, len(part)), largest=False)
        found.append(index[values.isfinite()] + start)
        start += len(part)
    return torch.cat(found)


def decoupled(
    s: Tensor, t: Tensor, labels: Tensor, alpha: float = 1.0, beta: float = 0.25
) -> Tensor:
    """DKD: label against the rest, and the classes of the rest."""
    label = F.one_hot(labels, s.shape[1]).bool()
    p, q = F.softmax(s, dim=1)[label], F.softmax(t, dim=1)[label]
    target = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    s, t = (x[~label].view(len(x), -1) for x in (s, t))
    return alpha * target + beta * kl(s, t)


def relations(s: Tensor, t: Tensor) -> Tensor:
    """DIST: correlation of rows and of columns."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()

    p, q = s.softmax(1), t.softmax(1)
    return distance(p, q) + distance(p.t(), q.t())


def mask_pixels(s: Tensor, t: Tensor, classes: Tensor) -> Tensor:
    """KL of the foreground probability of each pixel, a mean."""
    rows = torch.arange(len(classes), device=s.device)
    p, q = s[rows, classes].sigmoid(), t[rows, classes].sigmoid()
    return (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).mean()
