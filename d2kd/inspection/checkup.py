"""What a config builds, what a step of it costs, and what is wrong with it, before training."""

import logging
import math
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from typing import Dict, Iterator, List, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from ..adapters import DetectorAdapter
from ..checkpoint import SafeCheckpointer
from ..config.loading import with_plain_teachers
from ..data.brief import check_data
from ..distiller import Distiller
from ..engine.early_log import held_back
from ..engine.hooks.gradient_share import gradient_norms
from ..engine.trainer import DistillationTrainer
from ..heads import head_defaults
from .text_table import format_table

STEPS = 2
DOMINATES = 0.9  # share of the gradient norm


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
    stream = iter(trainer.data_loader)
    with EventStorage(0):
        model, optimizer = trainer.model, trainer.optimizer
        measured = [measure_step(model, optimizer, stream) for _ in range(STEPS)]
    times, norms = measured[-1][0], measured[0][1]
    rows = [(part, f"{1000 * x:.0f} ms") for part, x in times.items()]
    yield f"Time of the second step:\n{format_table(rows)}"
    shares = gradient_shares(norms)
    gradients = [(name, f"{norms[name]:.3g}", f"{share:.0%}") for name, share in shares.items()]
    if gradients:
        text = format_table(gradients)
        yield f"Gradient of each loss at the student's features, first step:\n{text}"
    found = find_problems(shares)
    yield "\n".join(f"Problem: {x}" for x in found) if found else "No problem found."


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


def measure_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, stream: Iterator[List[dict]]
) -> Tuple[Dict[str, float], Dict[str, float]]:
    """One training step, in parts: seconds of each, and the gradient norm of each loss."""
    times: Dict[str, float] = defaultdict(float)
    clock = _Clock(times)
    batch = next(stream)
    clock("data")
    if isinstance(model, Distiller):
        student = model.run_student(batch)
        clock("student, forward")
        teachers = model.run_teachers(batch, student)
        clock("teachers")
        model.supervise(batch, student, teachers)
        clock("student, forward")
        losses, features = model.run_heads(student, teachers), list(student.features.values())
        clock("methods")
        norms = gradient_norms(losses, features)
    else:
        losses, norms = model(batch), {}
        clock("student, forward")
    clock.restart()
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    clock("backward and update")
    return dict(times), norms


class _Clock:
    def __init__(self, times: Dict[str, float]) -> None:
        self._times = times
        self.restart()

    def restart(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._last = time.perf_counter()

    def __call__(self, part: str) -> None:
        last = self._last
        self.restart()
        self._times[part] += self._last - last


def gradient_shares(norms: Dict[str, float]) -> Dict[str, float]:
    """Each loss's part of the sum of the finite norms, 0 to 1; NaN for those that are not."""
    total = sum(norm for norm in norms.values() if math.isfinite(norm)) or 1.0
    return {name: norm / total if math.isfinite(norm) else math.nan for name, norm in norms.items()}


def find_problems(shares: Dict[str, float]) -> List[str]:
    """Losses that do nothing, or leave nothing to the others."""
    problems = []
    for name, share in shares.items():
        head = name.split("_")[1]
        key = f"DISTILL.{head}.WEIGHT"
        if math.isnan(share):
            problems.append(f"{name} has a NaN or infinite gradient: check weights and images.")
        elif share == 0:
            problems.append(f"{name} has no gradient: it teaches the student nothing.")
        elif name.count("_") > 1 and share > DOMINATES:
            problems.append(f"{name} has {share:.0%} of the gradient: lower {key}.")
    return problems
