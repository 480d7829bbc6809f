"""The terms of SetKD, of cells and anchors and of regions."""

from typing import Dict, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from ..adapters import DetectorOutput, RoIOutput
from ..adapters.region_sets import box_of
from ..losses import box_iou_loss, mean_over_ranks
from ..losses.labels import foreground
from ..losses.reduce import total
from ..losses.sets import region_targets, set_class_loss, soft_cross_entropy
from .anchors import by_anchor
from .taught_set import Points, TaughtSet

Terms = Dict[str, Tensor]


class CellTerms(NamedTuple):
    """Terms of a dense student: "cls" and "box", as far as their weights are above 0.

    Attributes:
        cls_weight, box_weight: of the terms.
        num_classes: K of the student.
        score: from which on a box is taught.
        beta: exponent of the quality focal loss.
        distributed: of GFL's kind, whose class score means class times IoU.
    """

    cls_weight: float
    box_weight: float
    num_classes: int
    score: float
    beta: float
    distributed: bool

    def said(self, student: DetectorOutput, chosen: TaughtSet) -> Points:
        """What the set says of all anchors or cells (N, R)."""
        place = student.adapter.assign(student, *chosen.objects())[0]
        image = torch.arange(len(place), device=place.device)[:, None]
        return chosen.at(image, place, self.score)

    def __call__(self, student: DetectorOutput, chosen: TaughtSet) -> Terms:
        """Both divided by the sum of certainties of taught points, at least 1."""
        said, valid = self.said(student, chosen), by_anchor(student.valid)
        certain = said.scores * (valid & said.taught)
        count = mean_over_ranks(certain.sum()).clamp(min=1)
        losses, boxes = {}, None
        if self.distributed or self.box_weight > 0:
            boxes = by_anchor(student.adapter.decode(student))
        if self.cls_weight > 0:
            loss = self._classes(student, said, valid, boxes)
            losses["cls"] = self.cls_weight * loss / count
        if boxes is not None and self.box_weight > 0:
            loss = (box_iou_loss(boxes, said.boxes) * certain).sum()
            losses["box"] = self.box_weight * loss / count
        return losses

    def _classes(
        self,
        student: DetectorOutput,
        said: Points,
        valid: Tensor,
        boxes: Optional[Tensor],
    ) -> Tensor:
        labelled = foreground(student.labels, self.num_classes)
        weight = valid & (said.taught | (said.background & ~labelled))
        targets, quality = said.probabilities, None
        if boxes is not None and self.distributed:
            targets = targets * (1 - box_iou_loss(boxes.detach(), said.boxes, "iou"))[..., None]
            quality = by_anchor(student.quality) if student.quality else None
        logits = by_anchor(student.logits)
        return set_class_loss(logits, targets, weight, said.known, self.beta, quality)


class RegionTerms(NamedTuple):
    """Terms of a two-stage student, means over its stages; see `CellTerms`.

    Attributes:
        both: ask the box head about the taught boxes too; of one stage.
    """

    cls_weight: float
    box_weight: float
    num_classes: int
    score: float
    both: bool

    def __call__(self, student: DetectorOutput, chosen: TaughtSet) -> Terms:
        """Divided by the sums of weights and of certainties, each at least 1."""
        places = student.adapter.assign(student, *chosen.objects())
        stages = [self._stage(student, chosen, k, place) for k, place in enumerate(places)]
        return {name: torch.stack([x[name] for x in stages]).mean() for name in stages[0]}

    def _stage(
        self, student: DetectorOutput, chosen: TaughtSet, index: int, place: Tensor
    ) -> Dict[str, Tensor]:
        stage = student.roi[index]
        said = chosen.at(_images(stage.proposals, place), place, self.score)
        classes = torch.cat([x.gt_classes for x in stage.proposals])
        silent = said.background & foreground(classes, self.num_classes)
        weight = (said.taught | said.background) & ~silent & _of_known(classes, said.known)
        parts = [self._sums(student, stage, index, said, weight)]
        if self.both and chosen.boxes.shape[1]:
            stage = student.adapter.regions_at(student, chosen.boxes)
            said = chosen.themselves(self.score)
            parts.append(self._sums(student, stage, 0, said, said.taught))
        sums, counts = (total(x) for x in zip(*parts, strict=True))
        losses = sums / mean_over_ranks(counts).clamp(min=1)
        weights = {"cls": self.cls_weight, "box": self.box_weight}
        found = zip(weights.items(), losses, strict=True)
        return {name: weight * loss for (name, weight), loss in found if weight > 0}

    def _sums(
        self,
        student: DetectorOutput,
        stage: RoIOutput,
        index: int,
        said: Points,
        weight: Tensor,
    ) -> Tuple[Tensor, Tensor]:
        """Sums over regions of both terms, 0 for those of weight 0, and of what they weigh."""
        counted = weight * said.scores.where(said.labels, 1)
        certain = said.scores * said.taught
        classes = boxes = counted.new_zeros(())
        if self.cls_weight > 0:
            targets = region_targets(said.probabilities, said.labels)
            classes = (soft_cross_entropy(stage.logits, targets, said.known) * counted).sum()
        if self.box_weight > 0:
            decoded = student.adapter.decode_regions(stage, index)
            chosen = box_of(decoded, said.probabilities.argmax(1))
            boxes = (box_iou_loss(chosen, said.boxes) * certain).sum()
        return torch.stack([classes, boxes]), torch.stack([counted.sum(), certain.sum()])


def _images(proposals: Sequence[Instances], like: Tensor) -> Tensor:
    """(P,) index of the image of each proposal."""
    return torch.cat([like.new_full((len(x),), n) for n, x in enumerate(proposals)])


def _of_known(classes: Tensor, known: Optional[Tensor]) -> Tensor:
    """Whether classes (P,) are known ones, of (K,) or (P, K), or background, K."""
    if known is None:
        return torch.ones_like(classes, dtype=torch.bool)
    padded = F.pad(known.expand(len(classes), -1), (0, 1), value=True)
    return padded.gather(1, classes[:, None])[:, 0]
