"""What a config builds, what a step of it costs, and what is wrong with it, before training."""

import logging
import tempfile
from contextlib import contextmanager
from typing import Iterator, List, Tuple

from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from ..adapters import DetectorAdapter
from ..checkpoint import SafeCheckpointer
from ..config.loading import with_plain_teachers
from ..data.brief import check_data
from ..distiller import Distiller
from ..engine.early_log import held_back
from ..engine.hooks.balance import GradientBalance
from ..engine.trainer import DistillationTrainer
from ..heads import head_defaults
from .text_table import format_table
from .trial_step import Measured, find_problems, gradient_shares, measure_step

STEPS = 2


def check_run(cfg: CfgNode) -> Iterator[str]:
    """Build everything, run two iterations, and describe them, a text for each part.

    Nothing is written to OUTPUT_DIR.

    Args:
        cfg: not frozen; its data sets are registered.

    Raises:
        ConfigError: whatever training would refuse.
    """
    with trainer_for_trial(cfg) as (trainer, said):
        yield from describe_model(trainer.model, cfg)
        yield (
            f"{len(trainer.data_loader.dataset.dataset):,} training images, "
            f"{cfg.SOLVER.IMS_PER_BATCH} per step, {cfg.SOLVER.MAX_ITER:,} steps"
        )
        yield from _describe_steps(trainer)
        for record in (x for x in said if x.levelno >= logging.WARNING):
            yield f"Warning: {record.getMessage()}"
        yield "\n".join(check_data(cfg))


@contextmanager
def trainer_for_trial(
    cfg: CfgNode,
) -> Iterator[Tuple[DistillationTrainer, List[logging.LogRecord]]]:
    """A trainer with its starting weights that keeps nothing, and what was logged."""
    with tempfile.TemporaryDirectory() as folder:
        cfg.OUTPUT_DIR = folder
        with_plain_teachers(cfg)  # whose time is to be seen
        with held_back() as said, _quiet():
            trainer = DistillationTrainer(cfg)
            SafeCheckpointer(trainer.model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
        yield trainer, said


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _describe_steps(trainer: DistillationTrainer) -> Iterator[str]:
    heads = () if trainer.distiller is None else trainer.distiller.weights
    held = bool(heads and trainer.cfg.DISTILL.BALANCE.SHARES)
    steps = _run_steps(trainer)
    rows = [(part, f"{1000 * x:.0f} ms") for part, x in steps[-1].times.items()]
    yield f"Time of the second step:\n{format_table(rows)}"
    norms = steps[-1 if held else 0].norms
    shares = gradient_shares(norms)
    gradients = [(name, f"{norms[name]:.3g}", f"{share:.0%}") for name, share in shares.items()]
    if gradients:
        of = "second step, whose weights hold DISTILL.BALANCE.SHARES" if held else "first step"
        yield f"Gradient of each loss at the student's features, {of}:\n{format_table(gradients)}"
    found = find_problems(steps, shares, heads, held)
    yield "\n".join(f"Problem: {x}" for x in found) if found else "No problem found."


def _run_steps(trainer: DistillationTrainer) -> List[Measured]:
    """The first sets the methods' weights, where DISTILL.BALANCE.SHARES does."""
    balance = [hook for hook in trainer._hooks if isinstance(hook, GradientBalance)]
    steps, stream = [], iter(trainer.data_loader)
    with EventStorage(0):
        for hook in balance:
            hook.before_step()
        for _ in range(STEPS):
            steps.append(measure_step(trainer, stream))
            for hook in balance:
                hook.after_step()
    return steps


def describe_model(model: nn.Module, cfg: CfgNode) -> Iterator[str]:
    """Student, teachers, and what each head reads and learns."""
    if not isinstance(model, Distiller):
        yield f"A plain {type(model).__name__}, {parameters(model):.2f} M parameters"
        return
    rows = [("student", *_row(model.adapter), weights_at_start(cfg))]
    for index, teacher in enumerate(model.teachers):
        rows.append((f"teacher {index}", *_row(teacher.adapter), teacher.weights))
    yield format_table(rows, ("", "detector", "M parameters", "classes", "strides", "weights"))
    rows = []
    for name, head in model.heads.items():
        options = {key.upper(): cfg.DISTILL[name][key.upper()] for key in head_defaults(type(head))}
        text = ", ".join(f"{key} {value}" for key, value in options.items())
        reads = ", ".join(sorted(head.requires))
        teachers = " ".join(map(str, model.panel.teachers_of[name]))
        rows.append((name, model.weights[name], teachers, reads, f"{parameters(head):.2f}", text))
    headers = ("method", "weight", "teacher", "reads", "M parameters", "options")
    yield format_table(rows, headers, widest=60)


def weights_at_start(cfg: CfgNode) -> str:
    """The weights that a student has before its first step."""
    timm = cfg.MODEL.TIMM
    trunk = timm.CHECKPOINT or (f"timm's {timm.NAME}" if timm.PRETRAINED else "")
    return cfg.MODEL.WEIGHTS or (
        f"trunk: {trunk}" if trunk and "timm" in cfg.MODEL.BACKBONE.NAME else "random"
    )


def _row(adapter: DetectorAdapter) -> List[str]:
    spec = adapter.spec()
    strides = " ".join(map(str, spec.features))
    return [spec.name, f"{parameters(adapter.detector):.2f}", str(spec.num_classes), strides]


def parameters(module: nn.Module) -> float:
    """Number of parameters, in millions."""
    return sum(p.numel() for p in module.parameters()) / 1e6
