"""Whether a training distils at all, told from its config."""

import logging
from types import MappingProxyType
from typing import List, Mapping, Tuple

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..errors import ConfigError

_LEAST = 0.01  # of the iterations at full strength, and of the strength


def check_distils(cfg: CfgNode, least_images: Mapping[str, int] = MappingProxyType({})) -> None:
    """Refuse a training that would distil nothing; warn, a line for each, of what takes no part.

    Args:
        cfg: of a training, from which a `Distiller` has been built.
        least_images: that each rank must have in a batch, by method.

    Raises:
        ConfigError: every weight is 0, or the schedule is so in every iteration, or its warm-up is
            100 times as long as the training; or a rank has too few images for a method.
    """
    _check_images(cfg, least_images)
    distill = cfg.DISTILL
    off = [name for name in distill.HEADS if distill[name].WEIGHT == 0]
    if len(off) == len(distill.HEADS):
        others = ", as is that of every other method" if len(off) > 1 else ""
        raise ConfigError(
            f"DISTILL.{off[0]}.WEIGHT is 0{others}, so nothing would be distilled: give a weight "
            "above 0, or train the plain student with MODEL.META_ARCHITECTURE set to it."
        )
    weights = [
        f"DISTILL.{name}.WEIGHT is 0: {name} takes time and teaches nothing." for name in off
    ]
    schedule = _schedule(tuple(distill.SCHEDULE), cfg.SOLVER.MAX_ITER)
    for text in (*weights, *schedule, *_unread(distill)):
        logging.getLogger(__name__).warning(text)


def full_iterations(warmup: float, last: float, count: int) -> float:
    """Sum of the scales of `DistillationSchedule` over `count` iterations."""
    end = count if last < 0 else min(last + 1, count)
    if warmup <= 0:
        return end
    rising = min(warmup, end)
    return rising * (rising - 1) / (2 * warmup) + end - rising


def _schedule(schedule: Tuple[float, ...], count: int) -> List[str]:
    """A line where full strength is never reached, or lasts for a moment."""
    warmup, last = schedule
    total = full_iterations(warmup, last, count)
    if not total or _LEAST * warmup >= count:
        raise ConfigError(
            f"DISTILL.SCHEDULE is {schedule}, (warm-up iterations, last distilled iteration): of "
            f"SOLVER.MAX_ITER {count} iterations so little would be distilled as in {total:.3g} at "
            "full strength. Shorten the warm-up, or end later (-1: never)."
        )
    end = count - 1 if last < 0 else min(last, count - 1)
    if end < (1 - _LEAST) * warmup:
        return [f"DISTILL.SCHEDULE is {schedule}: distillation reaches {end / warmup:.0%} of its "
                f"strength by iteration {end:.0f}, its last."]  # fmt: skip
    if total < _LEAST * count or total <= 1 < count:
        return [f"DISTILL.SCHEDULE is {schedule}: distillation ends after iteration {end:.0f} of "
                f"SOLVER.MAX_ITER {count}."]  # fmt: skip
    return []


def _check_images(cfg: CfgNode, least: Mapping[str, int]) -> None:
    batch, ranks = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    for name, count in least.items():
        if batch // ranks < count:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH is {batch}, {batch // ranks} for each of {ranks} ranks, but "
                f"{name} compares the images of a rank's batch with each other and needs {count}: "
                f"set SOLVER.IMS_PER_BATCH to {count * ranks} or more, or use terms of {name} that "
                f"compare none (d2kd methods {name}), or leave it out of DISTILL.HEADS."
            )


def teachers_of(distill: CfgNode, name: str) -> Tuple[int, ...]:
    """Indices of the teachers that the method `name` reads; that of a file is behind all."""
    node = distill[name]
    stored = (len(distill.TEACHER.CONFIG_FILES),) if node.get("OFFLINE") else ()
    return (*node.get("TEACHERS", ()), *stored) or (node.TEACHER,)


def _unread(distill: CfgNode) -> List[str]:
    """A line for each teacher that no method reads."""
    read = {index for name in distill.HEADS for index in teachers_of(distill, name)}
    read |= {0} if distill.INIT_FROM_TEACHER != "none" else set()
    return [
        f"Teacher {index} ({name}) is read by no method: set DISTILL.<method>.TEACHER {index} for "
        "one of DISTILL.HEADS, or leave it out of DISTILL.TEACHER.CONFIG_FILES."
        for index, name in enumerate(distill.TEACHER.CONFIG_FILES)
        if index not in read
    ]
