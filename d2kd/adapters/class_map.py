"""A detector's output in the classes that it has in common with another one."""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from ..detectors import Predicted
from ..losses import mean_over_ranks
from ..losses.labels import positives_per_batch
from .output import Decoder, DetectorOutput, MaskOutput, RoIOutput


@dataclass(frozen=True)
class ClassMap:
    """The classes that both detectors have, C of them, in the student's order.

    What is compared class by class then has C classes: those columns of both sides, background
    where there is one, and the objects, anchors and proposals of these classes. Objects of other
    classes count for nothing: their anchors are ignored, and they and their proposals left out.

    Attributes:
        num_classes: K of the student.
        student: index of each class in the student's list, ascending.
        teacher: its indices in the teacher's list. Of several the likeliest counts, or, where
            classes exclude each other (a softmax with background), their sum.
    """

    num_classes: int
    student: Tuple[int, ...]
    teacher: Tuple[Tuple[int, ...], ...]

    @property
    def most(self) -> int:
        """How many of the teacher's classes stand for one of the student's, at most."""
        return max(map(len, self.teacher))

    def text(self, student: Sequence[str], teacher: Sequence[str]) -> str:
        """One line about which classes are taught, from the names of all."""
        pairs = zip(self.student, self.teacher, strict=True)
        taught = [f"{student[i]} by {' and '.join(teacher[j] for j in js)}" for i, js in pairs]
        left = [name for i, name in enumerate(student) if i not in self.student]
        text = f"classes are matched by name, {len(taught)} of the student's {len(student)}: "
        text += ", ".join(taught)
        return f"{text}; it does not teach {', '.join(left)}" if left else text

    def of_student(self, output: DetectorOutput) -> DetectorOutput:
        """The student's output in the common classes; a copy, whose gradients reach `output`."""
        index = tuple((i,) for i in self.student)
        out = _columns(output, index)
        if hasattr(output, "labels"):
            out.labels = self._places(output.labels)
            positives = positives_per_batch(out.labels, len(self.student))
            out.num_pos = mean_over_ranks(positives).clamp(min=1)
        out.gt = [self._only(x) for x in output.gt]
        kept = self._kept(output)
        out.roi = [
            self._region(x, rows, index) for x, rows in zip(output.roi, kept[0], strict=True)
        ]
        if hasattr(output, "masks"):
            out.masks = self._mask(output.masks, kept[1], index)
        return out

    def of_teacher(self, output: DetectorOutput, student: DetectorOutput) -> DetectorOutput:
        """The teacher's output in the common classes.

        Args:
            output: the teacher's.
            student: the student's, as it is; its proposals are those of the teacher's regions.
        """
        out = _columns(output, self.teacher)
        kept = self._kept(student)
        out.roi = [
            RoIOutput(_pick_softmax(x.logits[rows], self.teacher), x.deltas[rows], [])
            for x, rows in zip(output.roi, kept[0], strict=False)  # none where masks alone count
        ]
        if hasattr(output, "masks"):
            logits = output.masks.logits[kept[1]]
            out.masks = MaskOutput(_pick(logits, self.teacher, 1), [])
        return out

    def of_sets(self, sets: Predicted) -> Predicted:
        """The teacher's set in the student's K classes; 0 and not known for those it lacks."""
        rows, taught = sets.probabilities, _on(sets.boxes.device, self.student)
        if sets.exclusive:
            common = _grouped(rows, self.teacher, 0.0).sum(3)
        else:
            common = _pick(rows, self.teacher, 2)
        known = torch.zeros(self.num_classes, dtype=torch.bool, device=rows.device)
        return sets._replace(
            probabilities=rows.new_zeros(*rows.shape[:2], self.num_classes).index_copy(
                2, taught, common
            ),
            known=known.index_fill(0, taught, True),
        )

    def _places(self, classes: Tensor) -> Tensor:
        """Classes in the common list: C for background, -1 for others and what was -1."""
        lookup = [-1] * (self.num_classes + 2)
        for place, index in enumerate((*self.student, self.num_classes)):
            lookup[index] = place
        return _on(classes.device, tuple(lookup))[classes]

    def _only(self, objects: Instances) -> Instances:
        classes = self._places(objects.gt_classes)
        found = objects[classes >= 0]
        found.gt_classes = classes[classes >= 0]
        return found

    def _kept(self, student: DetectorOutput) -> Tuple[List[Tensor], Tensor]:
        """Which regions of each stage, and which masks, are of common classes or background."""
        stages = [self._of_proposals(x.proposals) for x in student.roi]
        has_masks = hasattr(student, "masks")
        masks = self._of_proposals(student.masks.proposals) if has_masks else torch.tensor([])
        return stages, masks

    def _of_proposals(self, proposals: Sequence[Instances]) -> Tensor:
        return torch.cat([self._places(x.gt_classes) for x in proposals]) >= 0

    def _region(self, x: RoIOutput, rows: Tensor, index: "Index") -> RoIOutput:
        proposals = [self._only(p) for p in x.proposals]
        return RoIOutput(_pick_softmax(x.logits[rows], index), x.deltas[rows], proposals)

    def _mask(self, x: MaskOutput, rows: Tensor, index: "Index") -> MaskOutput:
        proposals = [self._only(p) for p in x.proposals]
        return MaskOutput(_pick(x.logits[rows], index, 1), proposals)


Index = Tuple[Tuple[int, ...], ...]


@lru_cache(maxsize=64)
def _on(device: torch.device, numbers: Tuple[int, ...]) -> Tensor:
    """Kept on the device, as a copy to it makes the host wait."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device)


class _MappedDecoder:
    """A detector's decoder whose class logits are those of the common classes."""

    def __init__(self, decoder: Decoder, index: Index) -> None:
        self._decoder, self._index = decoder, index
        self.decode = decoder.decode
        self.class_scores = decoder.class_scores
        self.assign = decoder.assign
        self.decode_regions = decoder.decode_regions
        self.regions_at = decoder.regions_at

    def head_from(
        self, stride: int, block: int, cls_x: Tensor, reg_x: Tensor
    ) -> Tuple[Tensor, ...]:
        logits, *others = self._decoder.head_from(stride, block, cls_x, reg_x)
        return (_pick(logits, self._index, -1), *others)


def _columns(output: DetectorOutput, index: Index) -> DetectorOutput:
    out = copy.copy(output)
    out.adapter = _MappedDecoder(output.adapter, index)
    for field in ("logits", "scores"):
        maps: Dict[int, Tensor] = getattr(output, field)
        setattr(out, field, {stride: _pick(x, index, -1) for stride, x in maps.items()})
    return out


def _pick(x: Tensor, index: Index, dim: int) -> Tensor:
    """Columns of independent classes, of several the largest; the only one, as of masks, stays."""
    if x.shape[dim] == 1:
        return x
    most = max(map(len, index))
    first, *others = (
        x.index_select(dim, _on(x.device, tuple(i[min(k, len(i) - 1)] for i in index)))
        for k in range(most)
    )
    for other in others:
        first = torch.maximum(first, other)
    return first


def _pick_softmax(x: Tensor, index: Index) -> Tensor:
    """(P, C + 1) of (P, K + 1) logits: the probabilities given a common class or background."""
    return _grouped(x, (*index, (x.shape[1] - 1,)), -torch.inf).logsumexp(2)


def _grouped(x: Tensor, index: Index, absent: float) -> Tensor:
    """(..., C, most) of (..., K): the columns of each class, then what is absent."""
    most, more = max(map(len, index)), x.shape[-1]
    places = tuple(j for i in index for j in (*i, *(most - len(i)) * (more,)))
    found = F.pad(x, (0, 1), value=absent).index_select(-1, _on(x.device, places))
    return found.unflatten(-1, (len(index), most))
