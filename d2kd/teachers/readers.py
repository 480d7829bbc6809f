"""Which heads read which teachers."""

from typing import Dict, Mapping, Sequence, Tuple

from ..adapters.class_map import ClassMap
from ..heads import DistillationHead
from .teacher import Teacher

Heads = Dict[str, Tuple[DistillationHead, float, int]]
"""Name -> head, weight, index of its teacher."""


def all_of(head: DistillationHead, index: int, count: int) -> Tuple[int, ...]:
    """Indices of all teachers that a head reads.

    Args:
        head: of a method.
        index: of its own teacher.
        count: of the teachers, behind which stored detections have their place.
    """
    if head.sets is None:
        return (index,)
    return (*head.sets.teachers, *[count] * head.sets.stored) or (index,)


def check_heads(heads: Heads, count: int, stored: bool) -> None:
    """Check weights, and indices of `count` teachers, and whether there are stored detections.

    Raises:
        ValueError: a weight is negative, or there is no such teacher.
    """
    for name, (head, weight, index) in heads.items():
        if not weight >= 0:
            raise ValueError(f"DISTILL.{name}.WEIGHT must be at least 0, not {weight}.")
        check_indices(name, (index,), count + stored)
        check_indices(name, all_of(head, index, count), count + stored, "TEACHERS")


def check_indices(name: str, indices: Sequence[int], count: int, key: str = "TEACHER") -> None:
    """Check that there are teachers of these indices, for the method `name`.

    Raises:
        ValueError: there are not.
    """
    for index in indices:
        if not 0 <= index < count:
            raise ValueError(
                f"DISTILL.{name}.{key} is {index}, but DISTILL.TEACHER.CONFIG_FILES lists "
                f"{count} teachers, counted from 0."
            )


def check_formats(formats: Sequence[str]) -> None:
    """Check that the channels of one detector's images can be turned into another one's.

    Raises:
        ValueError: they cannot.
    """
    if len(set(formats)) > 1 and not set(formats) <= {"RGB", "BGR"}:
        raise ValueError(
            f"INPUT.FORMAT of student and teachers are {formats}; only RGB and BGR can be turned "
            "into each other."
        )


def ask_for_sets(heads: Heads, teachers: Sequence[Teacher], maps: Mapping[int, ClassMap]) -> None:
    """Tell the teachers from which score on the boxes of their sets count.

    Where several classes of a teacher, by its index, become one of the student's, their sum may
    reach that score though none of them does; what does not reach it is left out by the method.
    """
    for head, _, index in heads.values():
        if head.sets is not None:
            for i in all_of(head, index, len(teachers)):
                if i < len(teachers):
                    summed = maps[i].most if i in maps else 1
                    teachers[i].adapter.least_score = head.sets.least / summed
