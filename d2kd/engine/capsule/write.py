"""Writing a capsule: a folder with json, yaml and safetensors of one failed step."""

import os
import shutil
import traceback
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple, TypeVar

import torch
from detectron2.config import CfgNode
from torch import nn

from ...checkpoint.safetensors_file import write_safetensors
from ...checkpoint.values import digest, digest_of, tensors_in
from ...cores import cpu_kind
from ...file_io import write_text
from ...text import plain
from ..provenance import describe_run, write_json
from .batch import Batch, pack
from .moment import Moment
from .weights import Source, Tensors, divide, parts_of, size_of

T = TypeVar("T")
FORMAT = 1
RECORD, CONFIG = "capsule.json", "config.yaml"
UNFINISHED = ".tmp"  # behind the name of a capsule that is being written


class FailedStep(NamedTuple):
    """A step that failed, behind its hooks: what it computed with, what it said, what was known."""

    cfg: CfgNode
    iteration: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    moment: Moment
    guard: Dict[str, Any]
    losses: Dict[str, float]
    norm: float
    error: Exception
    scaler: Dict[str, float]
    missing: List[str]


def write_capsule(step: FailedStep, folder: Path, source: Source, limit: int) -> int:
    """Write a capsule, completely or not at all, in the place of one that is there.

    Args:
        step: whose model has the moment that it began with.
        folder: of the capsule.
        source: a checkpoint, whose equal tensors are not written again.
        limit: bytes of tensors; parts that are over it are left out, and named.

    Returns:
        int: bytes that it has.
    """
    record, files = _contents(step, source, limit)
    new = folder.with_name(f"{folder.name}{UNFINISHED}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        for name, tensors in files.items():
            write_safetensors(tensors, new / f"{name}.safetensors")
        write_text(new / CONFIG, step.cfg.dump())
        write_json(new / RECORD, record)
        if (folder / RECORD).is_file():
            shutil.rmtree(folder)
        os.replace(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return sum(x.stat().st_size for x in folder.iterdir())


def _contents(step: FailedStep, source: Source, limit: int) -> tuple[Dict[str, Any], Dict]:
    """The record, and what is written of tensors, by file."""
    images, batch, left = pack(step.batch)
    random, state = step.moment.save()
    files: Dict[str, Tensors] = {"state": {**state, **_numbers(step)}}
    missing = [*step.missing, *(f"{x}, which no capsule can hold" for x in left)]
    free = limit - size_of(files["state"])
    weights: Dict[str, List[str]] = {}
    own = {"batch": batch}
    for part, tensors in parts_of(step.model).items():
        known = source.parts.get(part, {})
        lost: Tuple[Tensors, List[str]] = ({}, [])
        own[part], weights[part] = tried(part, partial(divide, tensors, known), lost, missing)
    for name, tensors in own.items():
        free -= size_of(tensors)
        if free >= 0:
            files[name] = tensors
            continue
        free += size_of(tensors)
        size = size_of(tensors) / 1e6
        missing.append(f"{name} ({size:.1f} MB), which SOLVER.GUARD.REPLAY_MB leaves no room for")
    starts = [step.cfg.MODEL.WEIGHTS, *(x.weights for x in getattr(step.model, "teachers", []))]
    none: Dict[str, Any] = {}
    record = {
        "format": FORMAT,
        "iteration": step.iteration,
        "reason": _reason(step.error),
        "run": describe_run(step.cfg, starts),
        "cpu": cpu_kind(),
        "random": random,
        "batch": images,
        "guard": {k: x for k, x in step.guard.items() if k != "norms"},
        "scaler": step.scaler,
        "optimizer": tried("the optimizer", partial(_optimizer, step.optimizer), none, missing),
        "teachers": _teachers(step.model, missing),
        "checkpoint": {"path": source.path, "sha256": source.sha256, "has": weights},
        "missing": missing,
    }
    return record, files


def tried(name: str, read: Callable[[], T], otherwise: T, missing: List[str]) -> T:
    """What `read` finds; behind a CUDA error, after which a GPU gives nothing, it is `missing`."""
    try:
        return read()
    except RuntimeError as error:
        first = plain(str(error).split("\n")[0])
        missing.append(f"{name}, which the device does not give any more ({first})")
        return otherwise


def origin(error: BaseException) -> BaseException:
    """What was raised first, before it was put into words for the user."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: Exception) -> Dict[str, str]:
    first = origin(error)
    frames = list(traceback.walk_tb(first.__traceback__))
    where = "unknown"
    for frame, line in frames[-1:]:
        where = f"{frame.f_globals.get('__name__')}, line {line}, in {frame.f_code.co_name}"
    return {"type": type(first).__name__, "text": str(first), "said": str(error), "where": where}


def _numbers(step: FailedStep) -> Tensors:
    """Numbers that may be NaN or infinite, which json does not have."""
    model = step.model
    named: Dict[str, Any] = {f"loss.{name}": x for name, x in step.losses.items()}
    named |= {f"weight.{name}": x for name, x in getattr(model, "weights", {}).items()}
    named |= {"scale": getattr(model, "scale", 1.0), "norm": step.norm}
    named["norms"] = step.guard["norms"]
    return {name: torch.tensor(x, dtype=torch.float64) for name, x in named.items()}


def _optimizer(optimizer: torch.optim.Optimizer) -> Dict[str, Any]:
    """A fingerprint: its class, the digest of its state, the options of its groups."""
    state = dict(tensors_in(optimizer.state_dict()["state"], "state"))
    groups: List[Dict[str, Any]] = [
        {k: x for k, x in group.items() if isinstance(x, (int, float, str, bool))}
        for group in optimizer.param_groups
    ]
    unique = [group for i, group in enumerate(groups) if group not in groups[:i]]
    return {"class": type(optimizer).__name__, "digest": digest_of(state), "groups": unique}


def _teachers(model: nn.Module, missing: List[str]) -> List[Dict[str, Any]]:
    """Fingerprints: files, the digest of their weights, and how they compute."""
    return [
        {
            "weights": x.weights,
            "precision": x.precision,
            "digest": tried(f"the digest of {x.weights}", partial(digest, x.detector), "", missing),
        }
        for x in getattr(model, "teachers", [])
    ]


__all__ = ["CONFIG", "FORMAT", "RECORD", "UNFINISHED", "FailedStep", "origin", "tried",
           "write_capsule"]  # fmt: skip
