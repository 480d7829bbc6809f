"""Teachers that compute in advance, from a config."""

import logging

import torch
from detectron2.config import CfgNode

from ..cores import own_cores
from ..errors import ConfigError
from .ahead import AheadTeacher
from .ahead_runner import ProcessRunner
from .ahead_stream import StreamRunner
from .teacher import Teacher


def run_ahead(teacher: Teacher, cfg: CfgNode) -> Teacher:
    """The teacher as DISTILL.TEACHER.AHEAD wants it, in a process or on a second stream.

    A stream is for a teacher on the student's GPU; a process has a GPU or processor cores of its
    own.

    Raises:
        ConfigError: an option that cannot work.
    """
    options, device = cfg.DISTILL.TEACHER, torch.device(cfg.MODEL.DEVICE)
    if not options.AHEAD:
        if options.DEVICE:
            raise ConfigError(
                "DISTILL.TEACHER.DEVICE is where a teacher computes the next batches: set "
                "DISTILL.TEACHER.AHEAD 1, or leave DISTILL.TEACHER.DEVICE empty."
            )
        return teacher
    own = torch.device(options.DEVICE or device)
    if device.type != "cpu" and own == device:
        return AheadTeacher(teacher, StreamRunner(teacher))
    if cfg.DISTILL.COMPILE:
        raise ConfigError(
            "DISTILL.TEACHER.AHEAD has the teacher in a process of its own, which DISTILL.COMPILE "
            "does not reach: set one of them off."
        )
    if own.type == device.type == "cpu":
        _say_shared_cores(options.THREADS)
    runner = ProcessRunner(teacher, own, options.THREADS, options.DEADLINE)
    return AheadTeacher(teacher, runner)


def _say_shared_cores(threads: int) -> None:
    """Warn where student and teacher together have more threads than there are cores."""
    student, cores = torch.get_num_threads(), own_cores()
    teacher = threads or student
    if student + teacher > cores:
        logging.getLogger(__name__).warning(
            "DISTILL.TEACHER.AHEAD: the student has %d threads and the teacher %d, on %d cores, "
            "which slows both down. Set OMP_NUM_THREADS=%d, or DISTILL.TEACHER.AHEAD 0.",
            student, teacher, cores, max(1, cores // 2),
        )  # fmt: skip
