"""Teachers that see images at the size that they were trained at."""

import logging
import math

from detectron2.config import CfgNode

from ..adapters import DetectorAdapter
from ..adapters.own_size import OwnSizeAdapter
from ..errors import ConfigError


def own_size_adapter(adapter: DetectorAdapter, cfg: CfgNode, teacher: CfgNode) -> OwnSizeAdapter:
    """The adapter of a teacher whose images have the size that it is tested at.

    Args:
        adapter: of the teacher.
        cfg: of the student, the size of whose test images stands for that of its images.
        teacher: config of the teacher.

    Raises:
        ConfigError: one of them keeps images as they are.
    """
    size = teacher.INPUT.MIN_SIZE_TEST, teacher.INPUT.MAX_SIZE_TEST
    theirs, ours = short_side(teacher), short_side(cfg)
    if min(theirs, ours) <= 0:
        raise ConfigError(
            "DISTILL.TEACHER.SIZE own needs INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST of student and "
            f"teacher, which give {ours:.0f} and {theirs:.0f} px: set them, or SIZE student."
        )
    found = OwnSizeAdapter(adapter, size, round(math.log2(theirs / ours)))
    strides = ", ".join(map(str, found.spec().features))
    logging.getLogger(__name__).info(
        "The teacher sees images with a shorter side of %d px, the longer at most %d px; "
        "beside the student's of about %.0f px its strides are %s px.", *size, ours, strides,
    )  # fmt: skip
    return found


def short_side(cfg: CfgNode) -> float:
    """Of a 4:3 image in evaluation, px; 0 where images keep their size."""
    return float(min(cfg.INPUT.MIN_SIZE_TEST, 0.75 * cfg.INPUT.MAX_SIZE_TEST))
