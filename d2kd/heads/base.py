"""The interface of a distillation head, its registry and its config."""

import inspect
from dataclasses import replace
from typing import Any, ClassVar, Dict, FrozenSet, List, Mapping, Optional

from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..adapters import BY_CLASS, STUDENT_ONLY, DetectorAdapter, DetectorOutput, DetectorSpec
from ..adapters.sets import SetRequest
from ..errors import anchor_keys, class_count_key
from .anchors import at_anchors as at_anchors
from .anchors import by_anchor as by_anchor

DISTILLATION_HEAD_REGISTRY = Registry("DISTILLATION_HEAD")
DISTILLATION_HEAD_REGISTRY.__doc__ = "Distillation heads by name; DISTILL.HEADS lists them."
DENSE_FIELDS = frozenset("logits scores deltas distributions quality valid anchors".split())


class DistillationHead(nn.Module):
    """A method: losses between what a student and a teacher compute, and its own projections.

    The constructor takes two `DetectorSpec`s and keyword-only options; these options, in upper
    case, are the keys of DISTILL.<Name>, with the same defaults. `requires` names the fields of
    `DetectorOutput` that `forward` reads, `optional` those of them that a detector may lack;
    `default_weight` is the published weight. `by_class` says that class k of the student is
    compared with class k of the teacher; it is taken from `requires` where a head does not say.
    A head that reads other fields of a student than of a teacher overrides `reads_of_student` and
    `reads_of_teacher`; one that reads `sets` says how, in `sets`. `least_images` is how many images
    a rank must have in a batch.
    """

    requires: FrozenSet[str] = frozenset({"features"})
    optional: FrozenSet[str] = frozenset()
    default_weight: ClassVar[float] = 1.0
    by_class: ClassVar[bool] = False
    sets: Optional[SetRequest] = None
    least_images: int = 1

    @classmethod
    def reads_of_student(cls, student: DetectorSpec) -> FrozenSet[str]:
        """The fields of `requires` that are read of a student such as this one."""
        return cls.requires

    @classmethod
    def reads_of_teacher(cls) -> FrozenSet[str]:
        """The fields of `requires` that are read of a teacher."""
        return cls.requires - STUDENT_ONLY

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take `by_class` from the fields that are read, unless the head says it."""
        super().__init_subclass__(**kwargs)
        if "requires" in vars(cls) and "by_class" not in vars(cls):
            cls.by_class = bool(cls.requires & BY_CLASS)

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """Return unweighted scalar losses by name; the `Distiller` adds prefix and weight."""
        raise NotImplementedError

    @property
    def measures(self) -> Mapping[str, Tensor]:
        """Scalars of the last forward to be logged, by name; computed when they are asked for."""
        return {}

    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """Maps to draw over the image: name -> stride -> (N, H, W) >= 0, none by default.

        It is called under no_grad, on outputs that hold no labels, proposals or losses.
        """
        return {}

    def check_teacher(self, teacher: DetectorAdapter) -> None:
        """Raise a ValueError unless the head can learn of this very teacher; before a training."""


def head_defaults(head: type) -> Dict[str, Any]:
    """The keyword-only options of a head's constructor, with their defaults."""
    parameters = inspect.signature(head).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build_head(
    name: str,
    node: CfgNode,
    student: DetectorAdapter,
    teacher: DetectorAdapter,
    num_classes: int = 0,
) -> DistillationHead:
    """Build a registered head for a pair of detectors.

    Args:
        name: registered name.
        node: its config, DISTILL.<name>.
        student: adapter of the student.
        teacher: adapter of the teacher it reads.
        num_classes: of the classes that are compared; 0 for all, which must be as many.

    Raises:
        ValueError: a detector does not provide what the head reads, or the two do not match.
    """
    head = DISTILLATION_HEAD_REGISTRY.get(name)
    specs = student.spec(), teacher.spec()
    reads = head.reads_of_student(specs[0]), head.reads_of_teacher()
    check_provides(name, head, "student", student, reads[0] - head.optional)
    check_provides(name, head, "teacher", teacher, reads[1] - head.optional)
    if num_classes and head.by_class:
        specs = (
            replace(specs[0], num_classes=num_classes),
            replace(specs[1], num_classes=num_classes),
        )
    by_class = head.by_class or ("sets" in reads[1] and not num_classes)
    check_specs(name, reads[0] & reads[1], *specs, by_class)
    return head(*specs, **{key: node[key.upper()] for key in head_defaults(head)})


def check_provides(
    name: str, head: type, role: str, adapter: DetectorAdapter, fields: FrozenSet[str]
) -> None:
    """Raise a ValueError that says what a head needs, what there is, and what else would fit."""
    if missing := sorted(fields - adapter.provides):
        known = [f"{x} with {adapter.conditions[x]}" for x in missing if x in adapter.conditions]
        raise ValueError(
            f"DISTILL.HEADS: {name} needs {', '.join(missing)}; {role} {adapter.spec().name} "
            f"provides {', '.join(sorted(adapter.provides))}"
            f"{' (and ' + '; '.join(known) + ')' if known else ''}. Use another {role}, or one of: "
            f"{', '.join(_fitting(role, adapter)) or 'no registered head'}."
        )


def check_specs(
    name: str,
    fields: FrozenSet[str],
    student: DetectorSpec,
    teacher: DetectorSpec,
    by_class: bool | None = None,
) -> None:
    """Raise a ValueError where student and teacher predictions cannot be compared.

    Args:
        name: of the head.
        fields: that it reads.
        student, teacher: the two detectors.
        by_class: see `DistillationHead`; None takes it from the fields.
    """
    by_class = bool(fields & BY_CLASS) if by_class is None else by_class
    if by_class and student.num_classes != teacher.num_classes:
        raise ValueError(
            f"DISTILL.HEADS: {name} compares class predictions, but the student has "
            f"{student.num_classes} classes and the teacher {teacher.num_classes}. Set "
            f"{class_count_key(student.name)} of the student to the teacher's, use a teacher "
            "trained on these classes or one whose class names are known, which are matched, or "
            "use a head that reads features only, such as PKD."
        )
    if fields & DENSE_FIELDS:
        levels = list(student.features), list(teacher.features)
        anchors = student.num_anchors, teacher.num_anchors
        if levels[0] != levels[1] or anchors[0] != anchors[1]:
            keys = [_levels_key(student)] * (levels[0] != levels[1]) + anchor_keys(student.name)
            advice = f"Give both the same {', '.join(keys)}, or use" if keys else "Use"
            raise ValueError(
                f"DISTILL.HEADS: {name} compares predictions anchor by anchor, but the student has "
                f"strides {levels[0]} with {anchors[0]} anchors a cell and the teacher {levels[1]} "
                f"with {anchors[1]}. {advice} a head that reads features only, such as PKD."
            )
    if "distributions" in fields and student.reg_max != teacher.reg_max:
        raise ValueError(
            f"DISTILL.HEADS: {name} compares box distributions bin by bin, but the student has "
            f"bins 0 to {student.reg_max} and the teacher 0 to {teacher.reg_max}. Set "
            f"MODEL.GFL.REG_MAX of the student to {teacher.reg_max}, or use a head that compares "
            "decoded boxes, such as BCKD."
        )


def common_strides(name: str, student: DetectorSpec, teacher: DetectorSpec) -> List[int]:
    """FPN strides (px) that both detectors have, ascending.

    Raises:
        ValueError: there is none.
    """
    common = sorted(set(student.features) & set(teacher.features))
    if not common:
        raise ValueError(
            f"DISTILL.HEADS: {name} found no common FPN stride: the student {student.name} has "
            f"{sorted(student.features)} px, the teacher {teacher.name} {sorted(teacher.features)} "
            f"px. Change {_levels_key(student)} of one, or use VFM, or SetKD if the teacher "
            "detects."
        )
    return common


def _levels_key(student: DetectorSpec) -> str:
    return class_count_key(student.name).replace("NUM_CLASSES", "IN_FEATURES")


def _fitting(role: str, adapter: DetectorAdapter) -> List[str]:
    spec, found = adapter.spec(), []
    for name, head in DISTILLATION_HEAD_REGISTRY:
        reads = head.reads_of_teacher() if role == "teacher" else head.reads_of_student(spec)
        found += [name] * (reads - head.optional <= adapter.provides)
    return sorted(found)
