"""The peak of what a call allocates."""

import gc
import json
import tempfile
from pathlib import Path
from typing import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """Most bytes that a call holds above what there was before it.

    On a GPU by its own counter, on the CPU from the allocator's events in torch's profiler.
    """
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    found = sorted((e["args"]["Ev Idx"], e["args"]) for e in events if e["name"] == "[memory]")
    sizes = [args for _, args in found]
    start = sizes[0]["Total Allocated"] - sizes[0]["Bytes"]
    return max(x["Total Allocated"] for x in sizes) - start
