"""What the parts of a training step take, measured by PyTorch's profiler."""

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch.autograd import DeviceType
from torch.profiler import profile, record_function, schedule

from ..engine.trainer import DistillationTrainer
from ..errors import ConfigError
from ..file_io import check_output, write_atomically
from .checkup import trainer_for_trial
from .text_table import format_table

WARM_UP, PROFILED = 3, 5  # steps
TRACE = "profile.json"
_PARTS = {
    "data": "enumerate(DataLoader)",
    "student": "d2kd.student",
    "teachers": "d2kd.teachers",
    "heads": "d2kd.heads",
    "backward": "autograd::engine::evaluate_function",
    "optimizer": "Optimizer.",
    "hooks": "d2kd.hooks",
}
"""What the names of the profiler's events begin with; those inside another part are its own."""
_STEP = "ProfilerStep"
Times = Tuple[float, float]  # ms per step of the host, and of the GPU


def profile_run(cfg: CfgNode) -> Iterator[str]:
    """Run a few steps of a training, and say in texts what their parts take.

    No evaluation and no checkpoint comes in between; OUTPUT_DIR gets profile.json, a trace for
    chrome://tracing or Perfetto, and nothing else.

    Args:
        cfg: not frozen; its data sets are registered.

    Raises:
        ConfigError: whatever training would refuse, or there is a profile.json.
    """
    path = Path(cfg.OUTPUT_DIR, TRACE)
    check_output(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    if path.exists():
        raise ConfigError(f"--profile: {path} exists: delete it, or give another --output.")
    cfg.TEST.EVAL_PERIOD, cfg.SOLVER.BEST_METRIC, cfg.DISTILL.TEACHER.CHECK_IMAGES = 0, "", 0
    balance = cfg.DISTILL.BALANCE
    balance.STEPS = min(balance.STEPS, WARM_UP)  # later steps are those of most of a training
    cfg.SOLVER.MAX_ITER = max(cfg.SOLVER.MAX_ITER, WARM_UP + PROFILED + 1)
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.SOLVER.MAX_ITER
    with trainer_for_trial(cfg) as (trainer, said):
        for record in (x for x in said if x.levelno >= logging.WARNING):
            yield f"Warning: {record.getMessage()}"
        if trainer.distiller is not None:
            trainer.distiller.part = record_function
        profiler = run_steps(trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: profiler.export_chrome_trace(str(part)))
    yield format_profile(part_times(profiler.events()))
    yield f"The trace, for chrome://tracing or ui.perfetto.dev: {path}"


def run_steps(trainer: DistillationTrainer) -> profile:
    """Run the steps; the profiler has recorded all but those of the warm-up."""
    on_gpu = next(trainer.model.parameters()).is_cuda
    plan = schedule(wait=0, warmup=WARM_UP, active=PROFILED, repeat=1)
    with EventStorage(0) as trainer.storage, torch.jit.optimized_execution(on_gpu):
        trainer.before_train()
        try:
            with profile(schedule=plan, acc_events=True) as profiler:
                for trainer.iter in range(WARM_UP + PROFILED):
                    _run_step(trainer)
                    profiler.step()
        finally:
            trainer.after_train()
    return profiler


def _run_step(trainer: DistillationTrainer) -> None:
    with record_function(_PARTS["hooks"]):
        trainer.before_step()
    trainer.run_step()
    with record_function(_PARTS["hooks"]):
        trainer.after_step()


def part_times(events: Iterable[Any]) -> Dict[str, Times]:
    """What each part takes of a step on average; "step" is the whole, as the host sees it."""
    sums: Dict[str, List[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in events:
        part = _part_of(event)
        if part and event.device_type == DeviceType.CPU and not _is_inside(event):
            sums[part][0] += event.cpu_time_total
            sums[part][1] += event.device_time_total
    return {part: (x / PROFILED / 1000, y / PROFILED / 1000) for part, (x, y) in sums.items()}


def format_profile(times: Dict[str, Times]) -> str:
    """A table of `part_times`; what no part has is the rest, with a plain detector's forward."""
    host, on_gpu = times["step"]
    parts = {name: times[name] for name in _PARTS if name in times}
    rest = "rest" if "student" in parts else "student and rest"
    left = host - sum(x for x, _ in parts.values()), on_gpu - sum(x for _, x in parts.values())
    rows: List[Tuple[str, float, float]]
    rows = [(name, *x) for name, x in parts.items()] + [(rest, *left), ("step", host, on_gpu)]
    texts = [
        (name, f"{x:.2f}", f"{x / host:.0%}", *([f"{y:.2f}"] * (on_gpu > 0))) for name, x, y in rows
    ]
    headers = ("", "ms", "of a step", *(["ms on the GPU"] * (on_gpu > 0)))
    return f"A step, mean of {PROFILED}:\n{format_table(texts, headers)}"


def _part_of(event: Any) -> str:
    if event.name.startswith(_STEP):
        return "step"
    return next((x for x, start in _PARTS.items() if event.name.startswith(start)), "")


def _is_inside(event: Any) -> bool:
    """Whether another part than the whole step is around it."""
    parent = event.cpu_parent
    while parent is not None and _part_of(parent) in ("", "step"):
        parent = parent.cpu_parent
    return parent is not None
