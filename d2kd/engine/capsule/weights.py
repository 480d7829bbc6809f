"""The weights of a capsule: those that a checkpoint has are named, the others are written."""

import contextlib
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from ...checkpoint import read_weights
from ...checkpoint.weights_file import split_pin
from ...distiller import Distiller
from ...file_io import sha256_of
from ...quantize import beside
from ...quantize.state import SECTION

Tensors = Dict[str, Tensor]
SECTIONS = {"student": "model", "heads": "distillation", "ranges": SECTION}
"""Part of what is trained -> where a checkpoint has it."""


class Source(NamedTuple):
    """A checkpoint: what names it, its SHA-256, and its sections by the part that they are of."""

    path: str
    sha256: str
    parts: Dict[str, Dict[str, Any]]


NOWHERE = Source("", "", {})


def parts_of(model: nn.Module) -> Dict[str, Tensors]:
    """The state of what is trained: the student's, its ranges, and the heads' if it distils."""
    parts = {"student": model.state_dict()}
    if ranges := beside(model):
        parts["ranges"] = ranges[SECTION].state_dict()
    if isinstance(model, Distiller):
        parts["heads"] = model.heads.state_dict()
    return parts


def source_of(last: str, start: str, folder: Path) -> Source:
    """The last checkpoint of a run or, before it, what it began with.

    Args:
        last: a file of the run, "" without one; it is named relative to the capsule.
        start: MODEL.WEIGHTS; of an address all weights are written.
        folder: of the capsule.
    """
    with contextlib.suppress(Exception):  # then all weights are written
        file = last or split_pin(start)[0]
        if os.path.isfile(file):
            data = read_weights(file)
            parts = {part: data.get(key) or {} for part, key in SECTIONS.items()}
            path = os.path.relpath(last, folder) if last else start
            return Source(path, sha256_of(file), parts)
    return NOWHERE


def divide(state: Tensors, known: Dict[str, Any]) -> Tuple[Tensors, List[str]]:
    """Tensors that are to be written, and the names of those that a checkpoint has as they are."""
    same = [
        name
        for name, x in state.items()
        if isinstance(found := known.get(name), Tensor)
        and found.dtype == x.dtype
        and torch.equal(found, x.detach().cpu())
    ]
    return {name: x for name, x in state.items() if name not in {*same}}, same


def size_of(tensors: Tensors) -> int:
    """Bytes."""
    return sum(x.numel() * x.element_size() for x in tensors.values())
