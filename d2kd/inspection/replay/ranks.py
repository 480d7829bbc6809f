"""The ranks of a step that is repeated: gloo processes of this machine."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any, List, Tuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ...engine.capsule.read import Capsule, name_of
from ...engine.capsule.write import RECORD
from ...errors import ConfigError
from ...file_io import read_json, write_text
from ...text import plain

_MOST, _APART = 64, 300.0  # ranks, seconds
_METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
Group = Callable[[], AbstractContextManager[None]]
"""The context in which a process is one of the ranks."""


def folders_of_ranks(capsule: Capsule) -> List[Path]:
    """The capsules of all ranks, by rank; none where they cannot be repeated together."""
    ranks, own = capsule.record["run"].get("ranks"), capsule.folder.resolve()
    if not isinstance(ranks, int) or not 1 < ranks <= _MOST or torch.cuda.is_available():
        return []
    found = [own.with_name(name_of(capsule.record["iteration"], rank)) for rank in range(ranks)]
    records = [x / RECORD for x in found]
    if own not in found or not all(x.is_file() for x in records):
        return []
    times = [x.stat().st_mtime for x in records]  # apart: of another run, that stopped there too
    return found if max(times) - min(times) < _APART else []


def in_ranks(function: Callable[..., Any], args: Tuple[Any, ...], ranks: int) -> List[Any]:
    """What `function(rank, group, *args)` returns in each of so many processes, as json has it.

    Raises:
        ConfigError: one of them fails, with its last line.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            mp.start_processes(_rank, (place, ranks, function, args), ranks, start_method=_METHOD)
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise ConfigError(plain(str(error).strip().splitlines()[-1], 1000)) from None
        return [read_json(Path(place, str(rank))) for rank in range(ranks)]


def _rank(
    rank: int, place: str, ranks: int, function: Callable[..., Any], args: Tuple[Any, ...]
) -> None:
    found = function(rank, partial(_group, rank, place, ranks), *args)
    write_text(Path(place, str(rank)), json.dumps(found))


@contextmanager
def _group(rank: int, place: str, ranks: int) -> Iterator[None]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{place}/store"
    dist.init_process_group("gloo", init_method=store, world_size=ranks, rank=rank)
    comm.create_local_process_group(ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
