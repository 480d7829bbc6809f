"""Student and teacher of other class lists, matched by name."""

import logging
from typing import Dict, List, Optional, Sequence, Union

from detectron2.config import CfgNode

from ..adapters.class_map import ClassMap
from ..config.distils import teachers_of
from ..data.class_names import matching
from ..errors import ConfigError, check_choice
from ..heads import DISTILLATION_HEAD_REGISTRY
from .classes import trained_classes
from .stored import StoredSets
from .teacher import Teacher


def match_classes(
    student: Sequence[str], teacher: Sequence[str], given: Sequence[Sequence[str]]
) -> Optional[ClassMap]:
    """Match the classes of two detectors by name.

    Args:
        student, teacher: names in order; none where they are not known.
        given: pairs (teacher's name, student's name) beside those that mean the same anyway.

    Returns:
        None where the lists are the same, or one is not known.

    Raises:
        ConfigError: no class in common, or `given` names one that does not exist.
    """
    found = matching(student, teacher, given)
    if not student or not teacher or found == [[i] for i in range(len(teacher))]:
        return None
    kept = [i for i, places in enumerate(found) if places]
    if not kept:
        raise ConfigError(
            f"the student ({_some(student)}) and the teacher ({_some(teacher)}) have no class in "
            "common: say which mean the same in DISTILL.TEACHER.CLASS_MAP, pairs (teacher's name, "
            "student's name), or use methods that read features only, such as PKD."
        )
    return ClassMap(len(student), tuple(kept), tuple(tuple(found[i]) for i in kept))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:90]) + (f" and {len(names) - 90} more" if len(names) > 90 else "")


Named = Union[Teacher, StoredSets]


def build_class_maps(cfg: CfgNode, teachers: Sequence[Named]) -> Dict[int, ClassMap]:
    """The maps of the teachers of methods that compare class by class, by their index; says them.

    Raises:
        ConfigError: see `match_classes`.
    """
    by_class = [name for name in cfg.DISTILL.HEADS if _reads_classes(name)]
    maps = {}
    _check_pairs(cfg, teachers)
    for index in sorted({i for name in by_class for i in teachers_of(cfg.DISTILL, name)}):
        theirs = teachers[index].classes
        ours = trained_classes(cfg) if theirs else []
        try:
            found = match_classes(ours, theirs, known_pairs(cfg, theirs))
        except ConfigError as error:
            raise ConfigError(f"DISTILL.HEADS: {', '.join(by_class)}: {error}") from None
        if found:
            maps[index] = found
            logging.getLogger(__name__).warning("Teacher %d: %s.", index, found.text(ours, theirs))
    return maps


def _reads_classes(name: str) -> bool:
    head = DISTILLATION_HEAD_REGISTRY.get(name)
    return head.by_class or "sets" in head.reads_of_teacher()


def known_pairs(cfg: CfgNode, theirs: Sequence[str]) -> List[Sequence[str]]:
    """The pairs of DISTILL.TEACHER.CLASS_MAP that are of a teacher with these names."""
    return [pair for pair in cfg.DISTILL.TEACHER.CLASS_MAP if pair[0] in theirs]


def _check_pairs(cfg: CfgNode, teachers: Sequence[Named]) -> None:
    known = {name for teacher in teachers for name in teacher.classes}
    for theirs, _ in cfg.DISTILL.TEACHER.CLASS_MAP:
        if not known:
            raise ConfigError(
                "DISTILL.TEACHER.CLASS_MAP: the names of the teachers' classes are not known."
            )
        check_choice(theirs, known, "DISTILL.TEACHER.CLASS_MAP, the teacher's class")


def same_classes(cfg: CfgNode, teacher: Teacher) -> bool:
    """Whether class k means the same to student and teacher, as far as their names are known."""
    ours = trained_classes(cfg) if teacher.classes else []
    found = matching(ours, teacher.classes, known_pairs(cfg, teacher.classes)) if ours else []
    return not ours or found == [[i] for i in range(len(teacher.classes))]
