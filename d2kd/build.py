"""Building a `Distiller` from a config, with every check that needs no image."""

import logging
from typing import Any, Dict, List

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from .adapters import DetectorAdapter, build_adapter
from .config.distils import teachers_of
from .config.keys import WITH_TEACHERS
from .config.naming import construct
from .config.validate import check_shares
from .errors import ConfigError, anchor_keys, check_choice
from .heads import DISTILLATION_HEAD_REGISTRY, DistillationHead, build_head
from .heads.base import DENSE_FIELDS
from .teachers.build_ahead import run_ahead
from .teachers.class_map import Named, build_class_maps, same_classes
from .teachers.from_config import build_teacher
from .teachers.inherit import INHERITED, initialize_from_teacher
from .teachers.readers import check_indices
from .teachers.stored import build_stored


def student_config(cfg: CfgNode) -> CfgNode:
    """The plain config of the detector that `cfg` trains: stock code builds it without d2kd.

    Raises:
        ValueError: MODEL.META_ARCHITECTURE has teachers and DISTILL.STUDENT is not a detector.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.META_ARCHITECTURE in WITH_TEACHERS:
        known = (name for name, _ in META_ARCH_REGISTRY if name not in WITH_TEACHERS)
        check_choice(cfg.DISTILL.STUDENT, known, "DISTILL.STUDENT")
        cfg.MODEL.META_ARCHITECTURE = cfg.DISTILL.STUDENT
    return cfg


def build_distiller(cfg: CfgNode) -> Dict[str, Any]:
    """Arguments of `Distiller` from a config.

    Raises:
        ValueError: any option that cannot work; the message names its key.
        FileNotFoundError: a teacher's config or checkpoint does not exist.
    """
    check_options(cfg)
    student = construct(student_config(cfg))
    count = len(cfg.DISTILL.TEACHER.CONFIG_FILES)
    teachers = [run_ahead(build_teacher(cfg, i), cfg) for i in range(count)]
    stored = build_stored(cfg)
    read: List[Named] = [*teachers, *([stored] if stored else [])]
    class_maps = build_class_maps(cfg, read)
    alike = not teachers or same_classes(cfg, teachers[0])
    if cfg.DISTILL.ASSIGN_WITH == "teacher" and not alike:
        raise ConfigError(
            "DISTILL.ASSIGN_WITH teacher: teacher 0 has other classes than the data, or another "
            "order of them. Set it to own, or take another teacher."
        )
    initialize_from_teacher(student, teachers, cfg.DISTILL.INIT_FROM_TEACHER, alike)
    adapter = build_adapter(student)
    heads = {}
    for name in cfg.DISTILL.HEADS:
        node, indices = cfg.DISTILL[name], teachers_of(cfg.DISTILL, name)
        for index in reversed(indices):  # the first one's stays, the others are checked
            count = len(class_maps[index].student) if index in class_maps else 0
            head = build_head(name, node, adapter, read[index].adapter, count)
            _warn_of_points(name, head, adapter, read[index].adapter)
        heads[name] = (head.to(cfg.MODEL.DEVICE), node.WEIGHT, indices[0])
    if cfg.DISTILL.COMPILE:
        compile_in_place([adapter, *(t.adapter for t in teachers)])
    return {
        "student": student,
        "teachers": teachers,
        "heads": heads,
        "input_format": cfg.INPUT.FORMAT,
        "class_maps": class_maps,
        "stored": stored,
        "assign_with": cfg.DISTILL.ASSIGN_WITH,
    }


def _warn_of_points(
    name: str, head: DistillationHead, student: DetectorAdapter, teacher: DetectorAdapter
) -> None:
    spec, places = student.spec(), [adapter.spec().points for adapter in (student, teacher)]
    both = head.reads_of_student(spec) & head.reads_of_teacher()
    if both & DENSE_FIELDS and all(places) and places[0] != places[1]:
        generator, _, offset = places[1].partition(" at ")
        advice = f"set the student's MODEL.ANCHOR_GENERATOR.NAME {generator} and OFFSET {offset}"
        if not anchor_keys(spec.name, generator):
            advice = f"{spec.name}'s cannot move; take another teacher, or PKD"
        logging.getLogger(__name__).warning(
            "DISTILL.HEADS: %s compares cell by cell, but the student's cells lie elsewhere (%s) "
            "than the teacher's (%s): %s.",
            name, *places, advice,
        )  # fmt: skip


def check_options(cfg: CfgNode) -> None:
    """Check DISTILL before anything is built.

    Raises:
        ValueError: names the key, the value and the way out.
    """
    distill, teachers = cfg.DISTILL, cfg.DISTILL.TEACHER.CONFIG_FILES
    known = [name for name, _ in DISTILLATION_HEAD_REGISTRY]
    for name in distill.HEADS:
        check_choice(name, known, "DISTILL.HEADS")
        node = distill[name]
        if not node.WEIGHT >= 0:
            raise ValueError(f"DISTILL.{name}.WEIGHT must be at least 0, not {node.WEIGHT}.")
        if not node.get("OFFLINE"):
            check_indices(name, (node.TEACHER,), len(teachers))
        check_indices(name, node.get("TEACHERS", ()), len(teachers), "TEACHERS")
    if not distill.HEADS or len(set(distill.HEADS)) < len(distill.HEADS):
        raise ValueError(
            f"DISTILL.HEADS must name at least one head, each once, not {tuple(distill.HEADS)}. "
            f"Known: {', '.join(sorted(known))}. To train without distillation, set "
            "MODEL.META_ARCHITECTURE to the student."
        )
    if len(distill.TEACHER.WEIGHTS) > len(teachers) and tuple(distill.TEACHER.WEIGHTS) != ("",):
        raise ValueError(
            f"DISTILL.TEACHER.WEIGHTS lists {len(distill.TEACHER.WEIGHTS)} files for "
            f"{len(teachers)} DISTILL.TEACHER.CONFIG_FILES; give one for each teacher."
        )
    if distill.COMPILE and distill.GRADIENT_PERIOD > 0:
        raise ValueError(
            "DISTILL.GRADIENT_PERIOD needs graphs that can be walked more than once, which "
            "DISTILL.COMPILE does not keep; set one of them off."
        )
    if distill.BALANCE.SHARES:
        check_shares(distill.BALANCE.SHARES, distill.HEADS)
        if distill.COMPILE or not all(distill[name].WEIGHT > 0 for name in distill.HEADS):
            raise ConfigError(
                "DISTILL.BALANCE.SHARES needs the gradient of every head: set DISTILL.COMPILE "
                "False, and no WEIGHT of a head to 0."
            )
    check_choice(distill.INIT_FROM_TEACHER, INHERITED, "DISTILL.INIT_FROM_TEACHER")
    if distill.INIT_FROM_TEACHER != "none" and not teachers:
        raise ConfigError(
            "DISTILL.INIT_FROM_TEACHER copies layers of teacher 0, but "
            "DISTILL.TEACHER.CONFIG_FILES is empty: set it to none."
        )


def compile_in_place(adapters: List[DetectorAdapter]) -> None:
    """`torch.compile` backbones and dense heads; parameter names do not change."""
    for adapter in adapters:
        for module in adapter.compilable():
            module.compile(dynamic=True)
