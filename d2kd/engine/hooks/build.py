"""The hooks of a training beside the stock ones, and what is made of these, from a config."""

from typing import Any, Callable, Dict, List, Optional, Sequence

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.utils import comm
from torch import nn

from ...teachers import TokenLearner
from ..metrics_file import MetricsFile
from .balance import GradientBalance
from .best_checkpoint import BestStudent
from .gradient_share import GradientShare
from .head_measures import HeadMeasures
from .learnt_tokens import LearntTokens
from .loss_watch import LossWatch
from .recorded_eval import RecordedEval
from .run_record import RunRecord
from .schedule import DistillationSchedule
from .teacher_check import TeacherCheck
from .teacher_trial import TeacherTrial


def build_distillation_hooks(cfg: CfgNode) -> List[Optional[HookBase]]:
    """What acts before a step, in this order; None stands for a hook that DISTILL leaves out."""
    distill, balance = cfg.DISTILL, cfg.DISTILL.BALANCE
    balanced = [balance.SHARES, distill.HEADS, balance.STEPS, cfg.OUTPUT_DIR, balance.PERIOD,
                balance.BAND]  # fmt: skip
    teacher = distill.TEACHER
    tried = teacher.PRECISION == "auto" or bool(teacher.CACHE_DIR)
    return [
        TeacherTrial(cfg) if tried else None,
        DistillationSchedule(*distill.SCHEDULE),
        GradientBalance(*balanced) if balance.SHARES else None,
        None if distill.COMPILE else GradientShare(distill.GRADIENT_PERIOD),
        TeacherCheck(cfg) if teacher.CHECK_IMAGES > 0 else None,
        _pictures(cfg) if distill.PICTURES.PERIOD > 0 else None,
        LossWatch(),
        HeadMeasures(_period(cfg)),
    ]


def adapt_stock_hooks(
    hooks: Sequence[Optional[HookBase]],
    cfg: CfgNode,
    evaluate: Callable[[], Dict[str, Any]],
    metrics: MetricsFile,
    others: Sequence[Optional[HookBase]] = (),
) -> List[Optional[HookBase]]:
    """Stock hooks that delete all but the last checkpoints, and keep a record of evaluations.

    Args:
        hooks: Detectron2's.
        cfg: of the training.
        evaluate: all ranks call it, and the first gets the measures.
        metrics: gets a row every 20 steps, in runs of fewer than 1,000 every MAX_ITER / 50.
        others: those of a distillation, of which `TeacherCheck` adds to the measures.
    """
    for check in others:
        if isinstance(check, TeacherCheck):
            evaluate = check.compared(evaluate)
    for hook in hooks:
        if cfg.SOLVER.CHECKPOINTS_TO_KEEP > 0 and isinstance(hook, PeriodicCheckpointer):
            hook.max_to_keep = cfg.SOLVER.CHECKPOINTS_TO_KEEP
    found = [RecordedEval(cfg, evaluate) if isinstance(x, EvalHook) else x for x in hooks]
    if any(isinstance(x, PeriodicWriter) for x in hooks):  # the first rank's
        found.append(PeriodicWriter([metrics], _period(cfg)))
    return found


def _period(cfg: CfgNode) -> int:
    """Steps from one row of the metrics to the next."""
    return min(20, max(1, cfg.SOLVER.MAX_ITER // 50))


def build_records(cfg: CfgNode, evaluated: nn.Module, model: nn.Module) -> List[Optional[HookBase]]:
    """What the first rank writes behind an evaluation: the best model, run.json, tokens.

    Args:
        cfg: of the training.
        evaluated: the model whose evaluations count.
        model: what is trained, maybe with `teachers`.
    """
    if not comm.is_main_process():
        return []
    best, folder = cfg.SOLVER.BEST_METRIC, cfg.OUTPUT_DIR
    teachers = getattr(model, "teachers", [])
    return [
        BestStudent(cfg.TEST.EVAL_PERIOD, best, evaluated, folder) if best else None,
        RunRecord(cfg, teachers),
        LearntTokens(model, folder) if isinstance(model, TokenLearner) else None,
    ]


def finish_step(hooks: Sequence[HookBase]) -> None:
    """Do what follows a checkpoint in its step: the evaluation, the row, the best model."""
    for hook in hooks:
        if isinstance(hook, (EvalHook, PeriodicWriter, BestStudent)):
            hook.after_step()


def _pictures(cfg: CfgNode) -> HookBase:
    from .pictures import Pictures  # Matplotlib takes long to load

    return Pictures(cfg)
