"""Size and speed of an exported file."""

import time
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import numpy as np
import torch
from torch import nn

from ..quantize import set_rounding
from .check import restore, run_reference
from .runner import fit_image, open_exported


class Measurement(NamedTuple):
    """Size of the file (1 MB is a million bytes), median time of one image in both, in ms."""

    size_mb: float
    exported_ms: float
    torch_ms: float


def measure_export(
    path: str | Path, detector: nn.Module, image: np.ndarray, repeats: int = 20
) -> Measurement:
    """Time an exported file and the detector's own inference, on one CPU thread.

    Both take turns on the image, which is resized and padded before, so that a busy machine slows
    both alike. Without NMS in the file, neither has it; a quantized detector computes in float.

    Args:
        path: a file of `export_onnx` or `export_pt2`.
        detector: what it was made of.
        image: (h, w, 3) uint8 in the detector's channel order.
        repeats: timed runs of each, after two that are not.

    Raises:
        ConfigError: the file cannot be opened, or is not of such a detector.
    """
    exported = open_exported(path)
    graph = restore(exported, detector)
    set_rounding(graph.detector, False)  # rounding in float takes time that the file does not
    padded, _ = fit_image(image, exported.description)
    turns = [lambda: exported.run(padded), lambda: run_reference(graph, padded)]
    exported_ms, torch_ms = np.median(time_runs(turns, repeats), axis=1) * 1000
    return Measurement(file_size(path), float(exported_ms), float(torch_ms))


def file_size(path: str | Path) -> float:
    """In MB, a million bytes; of an OpenVINO file with the weights beside it."""
    path = Path(path)
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(x.stat().st_size for x in files) / 1e6


def time_runs(turns: Sequence[Callable[[], object]], repeats: int) -> np.ndarray:
    """Seconds (len(turns), repeats) of functions that take turns, on one CPU thread of torch.

    Each is called twice before, which does not count.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [[_seconds(turn) for turn in turns] for _ in range(repeats + 2)]
    finally:
        torch.set_num_threads(threads)
    return np.transpose(times[2:])


def _seconds(turn: Callable[[], object]) -> float:
    start = time.perf_counter()
    turn()
    return time.perf_counter() - start
