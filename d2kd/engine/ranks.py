"""How a rank computes its steps: precision, determinism, and DDP with or without GPUs."""

import logging
import os
from typing import Callable, Type, TypeVar

import torch
from detectron2.config import CfgNode
from detectron2.engine import create_ddp_model
from detectron2.utils import comm

from .steps import MixedStep, Step

T = TypeVar("T")


def make_deterministic(on: bool) -> None:
    """Let PyTorch use operators that give the same bits again; it warns where it has none.

    The seed covers the rest: see `d2kd.engine.hooks.ExactResume` and `d2kd.data.loader`.
    """
    torch.use_deterministic_algorithms(on, warn_only=True)
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False


def wrap_ddp(model: torch.nn.Module) -> torch.nn.Module:
    """The model in DDP if there are several ranks; gloo ranks have no device ids."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    device = {"device_ids": None} if on_cpu else {}
    return create_ddp_model(model, broadcast_buffers=False, **device)


def step_class(cfg: CfgNode) -> Type[Step] | Type[MixedStep]:
    """The trainer of single steps, in mixed precision where SOLVER.AMP and a GPU are."""
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        logging.getLogger(__name__).warning(
            "SOLVER.AMP.ENABLED needs a GPU; MODEL.DEVICE is %r, training goes on in fp32.",
            cfg.MODEL.DEVICE,
        )
        return Step
    return MixedStep if cfg.SOLVER.AMP.ENABLED else Step


def on_first_rank(function: Callable[[], T]) -> T:
    """What `function` returns on the first rank; no other calls it, but all have its result.

    Raises:
        ValueError, OSError: on all ranks, what it raises on the first.
    """
    found, error = None, None
    if comm.is_main_process():
        try:
            found = function()
        except (ValueError, OSError) as raised:
            error = raised
    found, error = comm.all_gather((found, error))[0]
    if error is not None:
        raise error
    return found
