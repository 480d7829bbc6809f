"""The teachers of a training, and which head reads what of which."""

from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence

from ..adapters import DetectorAdapter, DetectorOutput
from ..adapters.class_map import ClassMap
from ..errors import ConfigError
from .class_map import Named
from .readers import Heads, all_of, ask_for_sets, check_formats, check_heads
from .stored import StoredSets
from .teacher import Teacher


class Panel:
    """Frozen teachers and, behind the last one, stored detections; no module.

    Attributes:
        teachers_of: indices of the teachers that each head reads, by its name.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        stored: Optional[StoredSets],
        heads: Heads,
        input_format: str,
        assigns: bool = False,
        class_maps: Optional[Mapping[int, ClassMap]] = None,
    ) -> None:
        """Check that the heads and the images of a batch fit the teachers.

        Args:
            teachers: frozen teachers.
            stored: detections that come with the images.
            heads: name -> (head, weight >= 0, index of its teacher).
            input_format: channel order of the images in a batch, "BGR" or "RGB".
            assigns: whether what teacher 0 predicts assigns the student's objects.
            class_maps: by the index of a teacher whose classes are not the student's.

        Raises:
            ValueError: a negative weight, a teacher index or a channel order that does not exist.
        """
        check_heads(heads, count := len(teachers), stored is not None)
        check_formats([input_format, *(t.input_format for t in teachers)])
        ask_for_sets(heads, teachers, class_maps or {})
        self.teachers, self.stored, self.input_format = list(teachers), stored, input_format
        self.teachers_of = {name: all_of(head, i, count) for name, (head, _, i) in heads.items()}
        self._reads = {name: head.reads_of_teacher() for name, (head, _, _) in heads.items()}
        self.assigns = assigns

    def check_assigner(self, student: DetectorAdapter) -> None:
        """Check that what teacher 0 predicts can assign the student's objects, if it is to.

        Raises:
            ConfigError: there is no teacher, its predictions cannot assign this student's objects,
                or it has other cells, classes or coding of boxes.
        """
        if not self.assigns:
            return
        mine = _kind_of(student)
        if not student.has_supervise_by:
            raise ConfigError(
                f"DISTILL.ASSIGN_WITH teacher: the student is {mine}, whose objects a teacher "
                "cannot assign: only DDOD's. Set it to own, or take a DDOD student."
            )
        theirs = _kind_of(self.teachers[0].adapter) if self.teachers else "not there"
        if theirs != mine:
            raise ConfigError(
                "DISTILL.ASSIGN_WITH teacher needs a teacher 0 of the student's kind, with its "
                f"strides, anchors and coding of boxes: the student is {mine}, teacher 0 is "
                f"{theirs}. Set it to own, or take another teacher."
            )

    @property
    def all(self) -> List[Named]:
        """The teachers and, behind them, stored detections."""
        return [*self.teachers, *([self.stored] if self.stored else [])]

    def need(self, index: int) -> FrozenSet[str]:
        """Fields that are read of one teacher; none of one that nothing reads."""
        names = (name for name, indices in self.teachers_of.items() if index in indices)
        assigned = frozenset({"logits", "deltas"} if self.assigns and index == 0 else ())
        return assigned.union(*(self._reads[name] for name in names))

    def run(
        self, batched_inputs: List[dict], divisor: int, student: DetectorOutput
    ) -> Dict[int, DetectorOutput]:
        """What is read of each teacher, by its index."""
        outputs = {}
        read = {i for indices in self.teachers_of.values() for i in indices}
        for index in sorted(read | {0} if self.assigns else read):
            need = self.need(index)
            outputs[index] = self.ask(index, batched_inputs, divisor, student, need)
            if need & {"roi", "masks"}:
                self.teachers[index].add_regions(outputs[index], student, need)
        return outputs

    def ask(
        self,
        index: int,
        batched_inputs: List[dict],
        divisor: int,
        student: DetectorOutput,
        need: FrozenSet[str],
    ) -> DetectorOutput:
        """What is needed of one teacher; of stored detections where the index is behind all."""
        if self.stored is not None and index == len(self.teachers):
            return self.stored(batched_inputs, student)
        return self.teachers[index](batched_inputs, divisor, self.input_format, need)

    def look_ahead(self, batched_inputs: List[dict], divisor: int) -> None:
        """Tell the teachers of a training batch that is to come; see `AheadTeacher`."""
        for index, teacher in enumerate(self.teachers):
            teacher.look_ahead(batched_inputs, divisor, self.input_format, self.need(index))


def _kind_of(adapter: DetectorAdapter) -> str:
    spec = adapter.spec()
    detector: Any = adapter.detector
    strides = ", ".join(map(str, spec.features))
    text = f"{spec.name} with {spec.num_classes} classes and {spec.num_anchors} {spec.box_coding}"
    text = f"{text} a cell of strides {strides} px"
    if not adapter.has_supervise_by:
        return text
    sides = [x[0, 2:] - x[0, :2] for x in detector.anchor_generator.cell_anchors]
    anchors = ", ".join(f"{w:g}x{h:g}" for w, h in (x.tolist() for x in sides))
    weights = ", ".join(f"{x:g}" for x in detector.box2box_transform.weights)
    return f"{text}, anchors of {anchors} px by {spec.points}, boxes weighed by {weights}"
