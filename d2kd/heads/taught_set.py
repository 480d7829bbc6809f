"""What a teacher's set says of a student's points."""

from typing import Dict, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from ..adapters.sets import best_first
from ..detectors import Predicted
from ..losses.box import intersection_and_union


class Points(NamedTuple):
    """What a set says of points, of any shape (...).

    Attributes:
        probabilities: (..., K), 0 for background.
        boxes: (..., 4) XYXY px, of no meaning for background.
        scores: (...) largest probability, 0 for background.
        labels: (...) bool, of a box of which one class alone is known.
        taught: (...) bool, of a box that is taught.
        background: (...) bool, of none of the boxes.
        known: bool, (K,) or (..., K), classes of which something is said; None for all.
    """

    probabilities: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    taught: Tensor
    background: Tensor
    known: Optional[Tensor]


class TaughtSet(NamedTuple):
    """The boxes of a set that count, the most certain first; the host does not wait for them.

    An image of fewer boxes than others has its last one again in their places, and again: that
    changes no assignment, whether the first or the last of equal ones wins. One without any has the
    box of its first px, which few anchors overlap: a box without area has the IoU 0 with all, which
    RetinaNet's matcher takes for all its best.

    Attributes:
        boxes: (N, Q, 4) XYXY px.
        probabilities: (N, Q, K) in [0, 1], float32.
        scores: (N, Q), the largest of them.
        labels: (N, Q) bool, see `Predicted`.
        there: (N, Q) bool, whether it is one for the first time.
        known: (K,) bool, see `Predicted`.
        of_box: (N, Q, K) bool, see `Predicted`.
    """

    boxes: Tensor
    probabilities: Tensor
    scores: Tensor
    labels: Tensor
    there: Tensor
    known: Optional[Tensor]
    of_box: Optional[Tensor]

    def at(self, image: Tensor, place: Tensor, score: float) -> Points:
        """What is said of points.

        Args:
            image: of each point, broadcast to the shape of `place`.
            place: (...) see `DetectorAdapter.assign`.
            score: from which on a box is taught; points of others take no part.
        """
        count = self.boxes.shape[1]
        place = place.masked_fill(~self.there.any(1)[image], -1)
        index = image * (count + 1) + place.masked_fill(place < 0, count)

        def pick(x: Tensor) -> Tensor:
            padded = F.pad(x, [*[0] * (2 * x.dim() - 4), 0, 1])  # one more box, background's
            found = padded.flatten(0, 1).index_select(0, index.flatten())
            return found.view(*index.shape, *x.shape[2:])

        scores = pick(self.scores)
        taught = (place >= 0) & (scores >= score)
        labels, known = pick(self.labels.float()) > 0, self.known
        if known is not None and self.of_box is not None:
            known = pick(self.of_box.float()) + known * (place < 0)[..., None] > 0
        rows, boxes = pick(self.probabilities), pick(self.boxes)
        return Points(rows, boxes, scores, labels, taught, place == -1, known)

    def objects(self) -> Tuple[Tensor, Tensor]:
        """Boxes and their likeliest classes (N, Q), which are assigned."""
        return self.boxes, self.probabilities.argmax(2)

    def measures(self, gt: Sequence[Instances], score: float) -> Dict[str, Tensor]:
        """What a set holds: numbers of boxes an image, their mean score, and how many are labelled.

        Args:
            gt: the objects of the images, with gt_boxes and gt_classes; only images that have some
                say how many boxes are labelled.
            score: from which on a box is taught.
        """
        taught = self.there & (self.scores >= score)
        count, images = taught.sum(), len(taught)
        found = {
            "taught_boxes": count / images,
            "ignored_boxes": (self.there & ~taught).sum() / images,
            "score": (self.scores * taught).sum() / count.clamp(min=1),
        }
        pairs = [(self._labelled(n, x), taught[n]) for n, x in enumerate(gt) if len(x)]
        if pairs:
            labelled, there = (torch.stack(x) for x in zip(*pairs, strict=True))
            found["labelled"] = (labelled & there).sum() / there.sum().clamp(min=1)
        return found

    def _labelled(self, image: int, objects: Instances) -> Tensor:
        """(Q,) whether an object of the box's class has an IoU of 0.5 or more with it."""
        theirs, classes = objects.gt_boxes.tensor, self.probabilities[image].argmax(1)
        inner, area = intersection_and_union(self.boxes[image][:, None], theirs)
        return ((inner >= 0.5 * area) & (classes[:, None] == objects.gt_classes)).any(1)

    def themselves(self, score: float) -> Points:
        """What is said of the boxes as points (N * Q,), each once; background none of them."""
        boxes, rows, scores, labels = (
            x.flatten(0, 1) for x in (self.boxes, self.probabilities, self.scores, self.labels)
        )
        taught = self.there.flatten() & (scores >= score)
        known = self.known if self.of_box is None else self.of_box.flatten(0, 1)
        return Points(rows, boxes, scores, labels, taught, torch.zeros_like(taught), known)


def taught_set(sets: Predicted, least: float, most: int) -> TaughtSet:
    """The boxes of a set that count.

    Args:
        sets: see `DetectorOutput.sets`.
        least: score from which on they count, above 0.
        most: that an image keeps.
    """
    sets = best_first(sets, most)
    scores = sets.probabilities.amax(2)
    labels = torch.zeros_like(scores, dtype=torch.bool) if sets.labels is None else sets.labels
    there = scores >= least
    first = F.pad(torch.zeros_like(sets.boxes[:, :1, 2:]), (0, 2), value=1)
    places = torch.arange(there.shape[1], device=there.device)
    places = places.minimum(there.sum(1, keepdim=True) - 1).clamp(min=0)  # of those that count
    images = torch.arange(len(there), device=there.device)[:, None]
    boxes, rows, scores, labels = (
        x[images, places] for x in (sets.boxes, sets.probabilities, scores, labels)
    )
    boxes = boxes.where(there[:, :1, None], first)
    known = None if sets.of_box is None else sets.of_box[images, places]
    return TaughtSet(boxes, rows, scores, labels, there, sets.known, known)
