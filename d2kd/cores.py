"""The processor cores of this process: how many there are, and its share beside other processes."""

import os
import platform
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import torch

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_LONGEST = 100_000  # bytes of it
_sharing = 1  # processes of one run on this machine, this one included


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use: those it is bound to, within its container's limit.

    Args:
        cgroup: where Linux shows the limit.

    Returns:
        int: at least 1.
    """
    if hasattr(os, "process_cpu_count"):
        cores = os.process_cpu_count()  # Python 3.13; also heeds PYTHON_CPU_COUNT
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return max(1, int(min(cores or 1, _limit(cgroup))))


def _limit(cgroup: Path) -> float:
    """CPU time per time of the container, in cores; infinite where there is no limit."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            files = (cgroup / "cpu" / f"cpu.cfs_{x}_us" for x in ("quota", "period"))
            quota, period = (file.read_text() for file in files)
        return int(quota) / int(period) if int(quota) > 0 else float("inf")
    except (OSError, ValueError):  # no such file; "max"
        return float("inf")


def share_cores(processes: int) -> None:
    """Leave the other processes of this run on this machine their part of the cores.

    PyTorch's threads are limited to this process's part, unless OMP_NUM_THREADS is set; so are
    the workers of its data loaders, see `own_cores`.

    Args:
        processes: how many there are, this one included.
    """
    global _sharing
    _sharing = max(1, processes)
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), own_cores()))


def own_cores() -> int:
    """This process's part of `usable_cores`, at least 1."""
    return max(1, usable_cores() // _sharing)


def cpu_kind(cpuinfo: Path = _CPUINFO) -> str:
    """The processor and the instructions that PyTorch uses: kinds that are equal round alike.

    Args:
        cpuinfo: where Linux describes it; on ARM by numbers of its maker and model.
    """
    text = ""
    if cpuinfo.is_file():
        with open(cpuinfo, "rb") as file:
            text = file.read(_LONGEST).decode(errors="replace")
    found = dict(re.findall(r"^(model name|CPU implementer|CPU part)\s*: (.*)$", text, re.M))
    name = " ".join(x.strip() for x in found.values()) or platform.processor()
    return f"{name or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give PyTorch so many threads in this process for a while; 0 leaves it those it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
