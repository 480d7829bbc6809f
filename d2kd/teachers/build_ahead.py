"""Teachers that compute in advance, from a config."""

import logging
import multiprocessing

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..cores import own_cores
from ..errors import ConfigError
from .ahead import AheadTeacher
from .ahead_process import content_of
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
    options = cfg.DISTILL.TEACHER
    if not options.AHEAD:
        if options.DEVICE:
            raise ConfigError(
                "DISTILL.TEACHER.DEVICE is where a teacher computes the next batches: set "
                "DISTILL.TEACHER.AHEAD 1, or leave DISTILL.TEACHER.DEVICE empty."
            )
        return teacher
    device = _indexed(cfg.MODEL.DEVICE, "MODEL.DEVICE")
    own = _indexed(options.DEVICE, "DISTILL.TEACHER.DEVICE") if options.DEVICE else device
    if device.type != "cpu" and own == device:
        if not hasattr(torch.get_device_module(device), "Stream"):
            raise ConfigError(f"DISTILL.TEACHER.AHEAD needs streams, which {device} has not: 0.")
        return AheadTeacher(teacher, StreamRunner(teacher))
    _check_process(cfg, own)
    content_of(teacher)  # refused now, not at the first batch
    if own.type == device.type == "cpu":
        _say_shared_cores(options.THREADS)
    return AheadTeacher(teacher, ProcessRunner(teacher, own, options.THREADS, options.DEADLINE))


def _indexed(name: str, key: str) -> torch.device:
    """A device, with its index where there can be several."""
    device = torch.device(name)
    if device.type != "cuda":
        return device
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(f"{key} is {name!r}, but there are {torch.cuda.device_count()} GPUs.")
    return torch.device("cuda", index)


def _check_process(cfg: CfgNode, own: torch.device) -> None:
    """Raise a ConfigError where a teacher cannot have a process."""
    if cfg.DISTILL.COMPILE:
        raise ConfigError(
            "DISTILL.TEACHER.AHEAD has the teacher in a process of its own, which DISTILL.COMPILE "
            "does not reach: set one of them off."
        )
    if own.type == "cuda" and comm.get_world_size() > 1:
        raise ConfigError(
            "DISTILL.TEACHER.DEVICE names one GPU, but there are several ranks, with a GPU each: "
            "leave it empty, each teacher then runs ahead on the GPU of its rank."
        )
    if "forkserver" not in multiprocessing.get_all_start_methods():
        raise ConfigError("DISTILL.TEACHER.AHEAD needs processes that this system has not: 0.")
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "DISTILL.TEACHER.AHEAD starts a process, which imports your script: put what trains "
            "behind `if __name__ == '__main__':`."
        )


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
