"""What a model's weights and its teachers were trained on: channels, statistics, sizes."""

import logging
import os
from pathlib import Path
from typing import List, NamedTuple, Optional

import numpy as np
from detectron2.config import CfgNode

from ..build import student_config
from ..config.keys import WITH_TEACHERS, flatten
from ..config.loading import teacher_config
from ..errors import ConfigError
from ..file_io import read_yaml
from ..teachers.from_config import teacher_weights
from ..teachers.own_size import short_side

_FAR = 1.5  # times larger or smaller
_TOLERANCE = 0.5  # of 255 grey levels
_BGR = [103.53, 116.28, 123.675]


class Pixels(NamedTuple):
    """INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD, the numbers of 0..255."""

    format: str
    mean: List[float]
    std: List[float]

    def differs(self, other: "Pixels") -> bool:
        """Whether images look different to a network; a rounded number does not."""
        ours, theirs = [*self.mean, *self.std], [*other.mean, *other.std]
        alike = len(ours) == len(theirs) and np.allclose(ours, theirs, atol=_TOLERANCE)
        return not alike or self.format != other.format

    def typed(self) -> str:
        """As options on the command line."""
        mean, std = ([round(x, 3) for x in values] for values in (self.mean, self.std))
        return f'INPUT.FORMAT {self.format} MODEL.PIXEL_MEAN "{mean}" MODEL.PIXEL_STD "{std}"'


_IMAGENET = {  # as Detectron2's docs/modeling and model zoo have them
    "ImageNetPretrained/MSRA/": Pixels("BGR", _BGR, [1.0, 1.0, 1.0]),
    "ImageNetPretrained/FAIR/X-101-32x8d": Pixels("BGR", _BGR, [57.375, 57.12, 58.395]),
    "ImageNetPretrained/torchvision/": Pixels("RGB", _BGR[::-1], [58.395, 57.12, 57.375]),
}


def check_inputs(cfg: CfgNode) -> None:
    """Warn, a line each, of weights that were trained on other pixels, and teachers on other sizes.

    Args:
        cfg: of a training.
    """
    texts = [pixel_doubt(student_config(cfg), cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS", "type")]
    learns = cfg.MODEL.META_ARCHITECTURE in WITH_TEACHERS
    for index in range(len(cfg.DISTILL.TEACHER.CONFIG_FILES) if learns else 0):
        texts += teacher_doubts(cfg, index)
    for text in filter(None, texts):
        logging.getLogger(__name__).warning(text)


def teacher_doubts(cfg: CfgNode, index: int) -> List[str]:
    """Lines about the pixels that teacher `index` was trained on, and the size of its images."""
    teacher_cfg, name = teacher_config(cfg, index), cfg.DISTILL.TEACHER.CONFIG_FILES[index]
    file, key = teacher_weights(cfg, index), f"DISTILL.TEACHER.WEIGHTS[{index}]"
    pixels = pixel_doubt(teacher_cfg, file, key, f"write in the teacher's config {name}")
    ours, theirs = short_side(cfg), short_side(teacher_cfg)
    texts = [pixels] if pixels else []
    if cfg.DISTILL.TEACHER.SIZE == "own":
        return texts
    if min(ours, theirs) > 0 and max(ours, theirs) / min(ours, theirs) > _FAR:
        texts.append(
            f"Teacher {index} ({name}) is of images with a shorter side of {theirs:.0f} px, and "
            f"sees the student's of {ours:.0f} px (INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST of both, on "
            f"4:3 images): objects are {max(ours, theirs) / min(ours, theirs):.1f} times "
            f"{'larger' if ours > theirs else 'smaller'} than it knows them. Train it, or the "
            "student, at the other's size, or set DISTILL.TEACHER.SIZE own."
        )
    return texts


def pixel_doubt(cfg: CfgNode, weights: str, key: str, remedy: str) -> str:
    """A line if a plain detector's weights were trained on other pixels than it sees, or "".

    That is known of a run's weights by the config.yaml beside them, of timm's and of Detectron2's.

    Args:
        cfg: of the detector.
        weights: its checkpoint, "" for none.
        key: the option that names it.
        remedy: what to do with the keys that are wrong, e.g. "type".
    """
    ours = Pixels(cfg.INPUT.FORMAT, list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD))
    theirs, name = (_of_run(weights) or _of_address(weights)), f"{key} {weights}"
    if not theirs and not weights:
        theirs, name = (
            _of_timm(cfg),
            f"MODEL.TIMM.NAME {cfg.MODEL.TIMM.NAME}, whose weights (timm's) are",
        )
    if not theirs or len(ours.mean) != 3 or not ours.differs(theirs):
        return ""
    return f"{name} trained on other pixels than these ({ours.typed()}): {remedy} {theirs.typed()}."


def _of_run(weights: str) -> Optional[Pixels]:
    if not weights:
        return None
    path = Path(os.path.dirname(weights.partition("#sha256=")[0]), "config.yaml")
    if not path.is_file():
        return None
    try:
        keys = flatten(read_yaml(path))
        names = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
        found, mean, std = (keys[name] for name in names)
        return Pixels(str(found), [float(x) for x in mean], [float(x) for x in std])
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError):
        return None  # a file of another program


def _of_address(weights: str) -> Optional[Pixels]:
    return next((pixels for part, pixels in _IMAGENET.items() if part in weights), None)


def _of_timm(cfg: CfgNode) -> Optional[Pixels]:
    node = cfg.MODEL.TIMM
    if "timm" not in cfg.MODEL.BACKBONE.NAME or not (node.PRETRAINED or node.CHECKPOINT):
        return None
    from timm import get_pretrained_cfg  # an optional dependency

    if (known := get_pretrained_cfg(node.NAME)) is None:
        return None
    mean, std = ([255 * x for x in values] for values in (known.mean, known.std))
    return Pixels("RGB", mean, std)
