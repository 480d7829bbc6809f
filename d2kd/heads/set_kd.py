"""SetKD: any teacher that yields boxes with class probabilities teaches any detector (ours).

No paper has it in this form. Points at which a student is asked, and weights by the teacher's
certainty, are those of KD-DETR (CVPR 2024, arXiv 2211.08071), whose points are queries.
"""

from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..adapters.sets import SetRequest
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead
from .options import check_options
from .set_terms import CellTerms, RegionTerms
from .taught_set import TaughtSet, taught_set

_DENSE = frozenset("logits deltas anchors valid labels gt quality".split())
_REGIONS = frozenset({"roi", "proposals", "gt"})


@DISTILLATION_HEAD_REGISTRY.register()
class SetKD(DistillationHead):
    """A teacher's detections as soft targets of the student's own anchors, cells or proposals.

    The student's own assigner says which point belongs to which box of the set, as if the boxes
    were objects. Points of a box learn its class probabilities and its box, all others that
    nothing is there, unless they are labelled; nothing is said of classes that the teacher lacks.
    Student and teacher share neither strides nor anchors, nor the list of classes.

    Centerness, IoU and distribution branches, RPN and masks are left to the supervised losses.
    """

    requires = _DENSE | _REGIONS | {"sets"}
    optional = frozenset({"quality"})
    by_class = False

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        score: float = 0.3,
        score_low: float = 0.1,
        max_boxes: int = 100,
        union_nms: float = 0.6,
        teachers: Sequence[int] = (),
        offline: str = "",
        cls_weight: float = 1.0,
        box_weight: float = 1.0,
        points: str = "general",
        beta: float = 2.0,
    ) -> None:
        """Set the options.

        Args:
            student, teacher: the two detectors.
            score: probability of a box's likeliest class from which on it is taught.
            score_low: from which on up to `score` a box is ignored: its points learn nothing.
            max_boxes: of an image, the most certain ones.
            union_nms: of several teachers' boxes of one class that overlap more (IoU), the most
                certain stays.
            teachers: indices of the teachers whose sets are joined; () for TEACHER alone.
            offline: a json file of detections, read instead of TEACHER and joined with TEACHERS.
            cls_weight, box_weight: of the terms, >= 0; one of weight 0 is not computed.
            points: of two-stage students, "general" for the sampled proposals, or "both" for the
                taught boxes as further proposals too, which a cascade has no use for.
            beta: exponent of the quality focal loss of dense students.

        Raises:
            ValueError: an option out of range.
        """
        super().__init__()
        check_options(
            "SetKD",
            at_least_zero={"BETA": beta},
            above_zero={"SCORE_LOW": score_low, "MAX_BOXES": max_boxes, "UNION_NMS": union_nms},
            terms={"CLS_WEIGHT": cls_weight, "BOX_WEIGHT": box_weight},
            choices={"POINTS": (points, ("general", "both"))},
        )
        if not score_low <= score <= 1:
            raise ValueError(
                f"DISTILL.SetKD.SCORE is {score}: give a number from SCORE_LOW {score_low} to 1."
            )
        if points == "both" and student.num_stages != 1:
            raise ValueError(
                "DISTILL.SetKD.POINTS both is of Faster and Mask R-CNN: set it to general for a "
                f"{student.name} with {student.num_stages} box stages."
            )
        self.score, self.score_low, self.max_boxes = score, score_low, max_boxes
        self.dense = student.num_anchors > 0
        self.distributed = student.box_coding == "distribution"
        weights, count = (cls_weight, box_weight), student.num_classes
        self.cells = CellTerms(*weights, count, score, beta, self.distributed)
        self.regions = RegionTerms(*weights, count, score, points == "both")
        self._last: Optional[Tuple[TaughtSet, List[Instances]]] = None
        self.sets = SetRequest(tuple(teachers), bool(offline), score_low, union_nms)

    @classmethod
    def reads_of_student(cls, student: DetectorSpec) -> FrozenSet[str]:
        """See the base class."""
        return _DENSE if student.num_anchors > 0 else _REGIONS

    @classmethod
    def reads_of_teacher(cls) -> FrozenSet[str]:
        """See the base class."""
        return frozenset({"sets"})

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "cls" and "box"; a term of weight 0 is not computed."""
        chosen = taught_set(teacher.sets, self.score_low, self.max_boxes)
        self._last = chosen, student.gt
        return (self.cells if self.dense else self.regions)(student, chosen)

    @property
    def measures(self) -> Mapping[str, Tensor]:
        """See the base class; those of `TaughtSet.measures`."""
        if self._last is None:
            return {}
        chosen, gt = self._last
        return chosen.measures(gt, self.score)

    @torch.no_grad()
    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class: "teacher" and "student", the largest class score of each cell.

        The teacher's is that of the box which the cell would belong to; it is left out without a
        set, such as that of a file which has none for these images. A two-stage student has no
        cells.
        """
        if not self.dense:
            return {}
        quality = student.quality if self.distributed else {}
        scores = {
            s: student.adapter.class_scores(x, quality.get(s)).amax(2)
            for s, x in student.logits.items()
        }
        found = {"student": scores}
        if hasattr(teacher, "sets"):
            found = {"teacher": self._taught(student, teacher), **found}
        sizes = {s: x.shape[2:] for s, x in student.features.items()}
        return {
            name: {s: x.unflatten(1, (*sizes[s], -1)).amax(3) for s, x in levels.items()}
            for name, levels in found.items()
        }

    def _taught(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[int, Tensor]:
        """Stride -> (N, HWA), the largest class score that a cell is taught."""
        chosen = taught_set(teacher.sets, self.score_low, self.max_boxes)
        said = self.cells.said(student, chosen)
        counts = [x.shape[1] for x in student.logits.values()]
        taught = (said.scores * said.taught).split(counts, 1)
        return dict(zip(student.logits, taught, strict=True))
