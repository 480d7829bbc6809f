"""Timing in alternating runs, shared by the benchmarks."""

import platform
import time
from typing import Callable, Dict, List

import detectron2
import torch
from detectron2.config import CfgNode

from d2kd.solver import build_optimizer


def default_device() -> str:
    """A GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def header(device: str) -> Dict[str, str]:
    """What a result depends on: device, threads, versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    versions = {"torch": torch.__version__, "detectron2": detectron2.__version__}
    return {"device": name + threads, **versions}


def timed(
    function: Callable[[], object], device: str, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Milliseconds of one call, on a clock in seconds: of the wall, or of the processor."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (clock() - start)


def alternate(
    functions: Dict[str, Callable[[], object]],
    rounds: int,
    device: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Dict[str, List[float]]:
    """Milliseconds of each function, one call of each a round, after two rounds of warm-up.

    The clock is that of `timed`.
    """
    times = {name: [] for name in functions}
    for index in range(rounds + 2):
        order = list(functions) if index % 2 else list(functions)[::-1]
        now = {name: timed(functions[name], device, clock) for name in order}
        if index >= 2:
            for name, value in now.items():
                times[name].append(value)
    return times


def training_step(model: torch.nn.Module, cfg: CfgNode, batch: List[dict]) -> Callable[[], None]:
    """A function that makes one optimizer step."""
    optimizer = build_optimizer(cfg, model.train())

    def step() -> None:
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()

    return step
