"""What can be combined: methods, detectors and their defaults, found by building tiny ones."""

import inspect
from functools import cache
from textwrap import fill
from typing import Any, Dict, List, Tuple

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..adapters import DetectorAdapter, TransformersDetectorAdapter, build_adapter
from ..config.defaults import get_d2kd_cfg
from ..errors import check_choice
from ..file_io import CONFIGS
from ..heads import DISTILLATION_HEAD_REGISTRY, build_head, head_defaults
from ..testing import tiny_cfg
from .text_table import format_table

_CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads",
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]  # fmt: skip
Entry = Tuple[str, str, List[Any]]
"""Meta-architecture, prefix of configs, options."""

DETECTORS: Dict[str, Entry] = {
    "RetinaNet": ("RetinaNet", "retinanet", []),
    "FCOS": ("FCOS", "fcos", []),
    "ATSS": ("ATSS", "atss", []),
    "AutoAssign": ("AutoAssign", "autoassign", []),
    "DDOD": ("DDOD", "ddod", []),
    "GFL": ("GFL", "gfl", []),
    "GFLv2": ("GFL", "gflv2", ["MODEL.GFL.QUALITY", "DGQP"]),
    "GFL with SDGQP": ("GFL", "gfl_sdgqp", ["MODEL.GFL.QUALITY", "SDGQP"]),
    "RepPoints": ("RepPoints", "reppoints", []),
    "Faster R-CNN": ("GeneralizedRCNN", "faster_rcnn", ["MODEL.MASK_ON", False]),
    "Mask R-CNN": ("GeneralizedRCNN", "mask_rcnn", []),
    "Cascade R-CNN": ("GeneralizedRCNN", "cascade_mask_rcnn", _CASCADE),
}


MAPS, BOXES = "maps (timm)", "maps, boxes (transformers)"
"""Teachers that are no detectors of Detectron2, by what they give and where they come from."""


def tiny_adapter(name: str) -> DetectorAdapter:
    """The adapter of a tiny detector of `DETECTORS`, or of a teacher that can be no student."""
    if name in (MAPS, BOXES):
        extractor = build_model(tiny_cfg("FeatureExtractor"))
        return build_adapter(extractor) if name == MAPS else TransformersDetectorAdapter(extractor)
    meta, _, options = DETECTORS[name]
    cfg = tiny_cfg(meta)
    cfg.merge_from_list(options)
    return build_adapter(build_model(cfg))


def fits(method: str, student: DetectorAdapter, teacher: DetectorAdapter) -> bool:
    """Whether the method can be built for the pair, with its defaults."""
    try:
        build_head(method, _options(method), student, teacher, 1)  # classes are matched by name
    except ValueError:
        return False
    return True


@cache
def _options(method: str) -> CfgNode:
    node = get_d2kd_cfg().DISTILL[method]
    if method == "CrossKD":
        node.BLOCK = 1  # tiny towers have two
    return node


def method_matrix() -> str:
    """Methods and detectors, for student and teacher of one kind."""
    adapters = {name: tiny_adapter(name) for name in DETECTORS}
    rows = []
    for method, _ in sorted(DISTILLATION_HEAD_REGISTRY):
        cells = ("yes" if fits(method, a, a) else "-" for a in adapters.values())
        rows.append((method, *cells))
    note = (
        "\n\nStudent and teacher of one kind. Methods that read features alone, such as PKD, and "
        "SetKD, go\nbetween all of them. d2kd methods NAME shows keys and defaults."
    )
    return format_table(rows, ("method", *(x.replace(" ", "\n") for x in adapters))) + note


def students_of() -> Dict[str, Dict[str, int]]:
    """Method -> kind of teacher -> how many kinds of students can learn from it.

    A teacher of the student's family has the same strides, anchors and widths; one of another
    family has its own of them.
    """
    students = {name: tiny_adapter(name) for name in DETECTORS}
    teachers = {**students, MAPS: tiny_adapter(MAPS), BOXES: tiny_adapter(BOXES)}
    return {
        method: {n: sum(fits(method, s, t) for s in students.values()) for n, t in teachers.items()}
        for method, _ in sorted(DISTILLATION_HEAD_REGISTRY)
    }


def teacher_matrix() -> str:
    """Methods and teachers of each kind: how many of the students' kinds fit."""
    counts = students_of()
    rows = [(method, *(x or "-" for x in row.values())) for method, row in counts.items()]
    names = [x.replace(" ", "\n") for x in next(iter(counts.values()))]
    note = f"\n\nTeachers are columns; of {len(DETECTORS)} kinds of students, so many can learn."
    return format_table(rows, ("method", *names)) + note


def describe_method(name: str) -> str:
    """Summary, fields that are read, and keys with defaults.

    Raises:
        ConfigError: no such method; with near names.
    """
    check_choice(name, [n for n, _ in DISTILLATION_HEAD_REGISTRY], "NAME")
    head = DISTILLATION_HEAD_REGISTRY.get(name)
    keys = {"WEIGHT": head.default_weight, "TEACHER": 0}
    keys.update({key.upper(): value for key, value in head_defaults(head).items()})
    rows = [(f"DISTILL.{name}.{key}", repr(value)) for key, value in keys.items()]
    reads = ", ".join(sorted(head.requires))
    table = format_table(rows, ("key", "default"))
    text = f"{name}: {inspect.getdoc(head)}\n\nReads: {reads}\n\n{table}"
    arguments = inspect.getdoc(head.__init__)
    return f"{text}\n\n{arguments}" if arguments else text


def detector_table() -> str:
    """Detectors, their meta-architecture and the configs that d2kd has for them."""
    rows = []
    for name, (meta, prefix, options) in DETECTORS.items():
        folders = ("detectors", "train")
        files = [x for folder in folders for x in CONFIGS.glob(f"{folder}/{prefix}_[Rm]*.yaml")]
        found = ", ".join(sorted(str(x.relative_to(CONFIGS)) for x in files))
        keys = [f"MODEL.META_ARCHITECTURE {meta}"]
        keys += [f"{key} {value}" for key, value in zip(options[::2], options[1::2], strict=True)]
        rows.append((name, "\n".join(keys), fill(found, 64)))
    note = (
        "\n\nEach can be student or teacher. train/ has the published schedules; "
        "any config of the model zoo works too."
    )
    return format_table(rows, ("detector", "keys", "configs of d2kd")) + note
