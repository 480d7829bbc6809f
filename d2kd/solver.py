"""Adam, AdamW and the one-cycle schedule beside Detectron2's own optimizers and schedules."""

from typing import Any, Dict, Iterable, List

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, get_default_optimizer_params
from detectron2.solver import build_lr_scheduler as build_stock_lr_scheduler
from detectron2.solver.build import build_optimizer as build_stock_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    ParamScheduler,
)
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

_ADAM = {"AdamW": torch.optim.AdamW, "Adam": torch.optim.Adam}
OPTIMIZERS = ("SGD", *_ADAM)
STOCK_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
ONECYCLE_START = 1 / 25  # first factor of SOLVER.BASE_LR, torch's OneCycleLR default
ONECYCLE_END = 1e-4 / 25  # last factor, likewise


def add_solver_config(cfg: CfgNode) -> None:
    """Add the solver keys that Detectron2 lacks; their defaults change nothing.

    Args:
        cfg: node to extend, in place.
    """
    cfg.SOLVER.OPTIMIZER = "SGD"  # "SGD" (Detectron2's own), "AdamW" or "Adam"
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 0  # the last ones; 0 keeps all
    cfg.SOLVER.BEST_METRIC = ""  # such as "bbox/AP": the best evaluation's model_best.pth
    cfg.SOLVER.ONECYCLE_PCT_START = 0.15  # OneCycleLR: fraction of SOLVER.MAX_ITER spent rising
    cfg.SOLVER.EMA = CfgNode()  # see `d2kd.engine.hooks.WeightAverage`
    cfg.SOLVER.EMA.DECAY = 0.0  # of an average of the weights, which is the result (0: no average)
    cfg.SOLVER.GUARD = CfgNode()  # see `d2kd.engine.hooks.GradientGuard`
    cfg.SOLVER.GUARD.NON_FINITE = "stop"  # stop | skip: a step with a NaN or infinite gradient
    cfg.SOLVER.GUARD.SPIKE = 0.0  # a spike has so many times the usual gradient norm (0: none)
    cfg.SOLVER.GUARD.ON_SPIKE = "skip"  # skip | stop
    cfg.SOLVER.GUARD.REPLAY_MB = 200.0  # of what `d2kd replay` needs of a step that fails (0: none)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``SOLVER.OPTIMIZER`` names.

    ``WEIGHT_DECAY_NORM``, ``WEIGHT_DECAY_BIAS``, ``BIAS_LR_FACTOR`` and ``CLIP_GRADIENTS`` mean the
    same for all optimizers. With ``CLIP_TYPE`` "norm" Detectron2 clips every parameter tensor on
    its own; "full_model", added here, clips the gradient of the whole model.

    Args:
        cfg: config with the keys of `add_solver_config`.
        model: module whose trainable parameters are optimized.

    Returns:
        A torch optimizer; for "SGD" what Detectron2 builds, with the same numbers. On the CPU it
        steps parameter by parameter, where Detectron2's `foreach` is slower.
    """
    name, solver, clip = cfg.SOLVER.OPTIMIZER, cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE == "full_model":
        unclipped = cfg.clone()
        unclipped.defrost()
        unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
        return _clip_whole(build_optimizer(unclipped, model), clip.CLIP_VALUE, clip.NORM_TYPE)
    if name == "SGD":
        return _without_foreach_on_cpu(build_stock_optimizer(cfg, model))
    if name not in _ADAM:
        raise ValueError(
            f"SOLVER.OPTIMIZER is {name!r}, which d2kd does not know. Choose one of {OPTIMIZERS}."
        )
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    adam = _ADAM[name](params, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    return maybe_add_gradient_clipping(cfg, adam)


def scale_learning_rate(
    optimizer: torch.optim.Optimizer, params: Iterable[nn.Parameter], factor: float
) -> None:
    """Multiply the learning rate of some parameters, which get groups of their own, in place.

    Args:
        optimizer: before a scheduler is built for it.
        params: the parameters; those that the optimizer does not have are ignored.
        factor: above 0; 1 leaves the groups as they are.
    """
    chosen = {id(p) for p in params}
    for group in list(optimizer.param_groups) if factor != 1 else []:
        scaled = [p for p in group["params"] if id(p) in chosen]
        group["params"] = [p for p in group["params"] if id(p) not in chosen]
        if scaled:
            optimizer.add_param_group({**group, "params": scaled, "lr": group["lr"] * factor})
    optimizer.param_groups[:] = [g for g in optimizer.param_groups if g["params"]]


def group_options(optimizer: torch.optim.Optimizer) -> List[Dict[str, Any]]:
    """Learning rate, decay, momentum and so on of each group of parameters."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def use_options(
    optimizer: torch.optim.Optimizer, scheduler: LRScheduler, options: List[Dict[str, Any]]
) -> None:
    """Set what `group_options` returned of an optimizer of the same groups, in place.

    The schedule goes on where it is, from the new learning rates.
    """
    for group, values in zip(optimizer.param_groups, options, strict=True):
        group.update(values)
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate


def _without_foreach_on_cpu(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["foreach"] = any(p.is_cuda for p in group["params"])
    return optimizer


def _clip_whole(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float
) -> torch.optim.Optimizer:
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(params, max_norm, norm_type)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def onecycle(pct_start: float) -> ParamScheduler:
    """Learning-rate factors of the one-cycle policy with two cosine arcs.

    Args:
        pct_start: fraction of the run, in (0, 1), in which the factor rises to 1.

    Returns:
        A map from progress in [0, 1) to the factor of the base learning rate.
    """
    if not 0 < pct_start < 1:
        raise ValueError(
            f"SOLVER.ONECYCLE_PCT_START is {pct_start}; it must lie between 0 and 1, such as 0.15."
        )
    rise, fall = CosineParamScheduler(ONECYCLE_START, 1.0), CosineParamScheduler(1.0, ONECYCLE_END)
    lengths = [pct_start, 1 - pct_start]
    return CompositeParamScheduler([rise, fall], lengths, ["rescaled", "rescaled"])


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Build the schedule that ``SOLVER.LR_SCHEDULER_NAME`` names.

    "OneCycleLR" spans ``SOLVER.MAX_ITER`` with ``SOLVER.BASE_LR`` as its peak and ignores the
    ``WARMUP_*`` keys. It depends on the iteration only, so a resumed run goes on where it stopped.

    Args:
        cfg: config with the keys of `add_solver_config`.
        optimizer: optimizer to steer.

    Returns:
        A scheduler to step once per iteration.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name in STOCK_SCHEDULES:
        return build_stock_lr_scheduler(cfg, optimizer)
    if name != "OneCycleLR":
        choices = (*STOCK_SCHEDULES, "OneCycleLR")
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME is {name!r}, which d2kd does not know. "
            f"Choose one of {choices}."
        )
    multiplier = onecycle(cfg.SOLVER.ONECYCLE_PCT_START)
    return LRMultiplier(optimizer, multiplier=multiplier, max_iter=cfg.SOLVER.MAX_ITER)
