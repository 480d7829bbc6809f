"""The hooks of a distillation, from its config."""

from typing import List, Optional

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from .balance import GradientBalance
from .gradient_share import GradientShare
from .loss_watch import LossWatch
from .schedule import DistillationSchedule
from .teacher_check import TeacherCheck


def build_distillation_hooks(cfg: CfgNode) -> List[Optional[HookBase]]:
    """What acts before a step, in this order; None stands for a hook that DISTILL leaves out."""
    distill, balance = cfg.DISTILL, cfg.DISTILL.BALANCE
    balanced = [balance.SHARES, distill.HEADS, balance.STEPS, cfg.OUTPUT_DIR]
    return [
        DistillationSchedule(*distill.SCHEDULE),
        GradientBalance(*balanced) if balance.SHARES else None,
        None if distill.COMPILE else GradientShare(distill.GRADIENT_PERIOD),
        TeacherCheck(cfg) if distill.TEACHER.CHECK_IMAGES > 0 else None,
        _pictures(cfg) if distill.PICTURES.PERIOD > 0 else None,
        LossWatch(),
    ]


def _pictures(cfg: CfgNode) -> HookBase:
    from .pictures import Pictures  # Matplotlib takes long to load

    return Pictures(cfg)
