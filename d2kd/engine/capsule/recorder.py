"""Keeps what a step begins with and, if the step fails, writes a capsule."""

import contextlib
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from ...data.labels import check_labels
from ...errors import RunError
from ...text import shell
from .moment import Moment
from .read import REPLAY, name_of
from .weights import source_of
from .write import RECORD, FailedStep, origin, tried, write_capsule

_PATIENCE = 30.0  # seconds, for other ranks, which need not stop or see this disk
Batch = List[Dict[str, Any]]
logger = logging.getLogger(__name__)


class LastBatch:
    """The batches of another loader, with their labels checked, of which it has the last one.

    Attributes:
        batch: that a step computes with; None while the next one is awaited.
        dataset: of the loader.
    """

    def __init__(self, loader: Iterable[Batch], classes: int, key: str) -> None:
        """Wrap a loader; see `check_labels`."""
        self._loader, self._classes, self._key = loader, classes, key
        self.batch: Optional[Batch] = None
        self.dataset = getattr(loader, "dataset", None)

    def __iter__(self) -> Iterator[Batch]:
        """The batches.

        Raises:
            ConfigError: see `check_labels`.
        """
        for batch in self._loader:
            self.batch = batch
            check_labels(batch, self._classes, self._key)
            yield batch
            self.batch = None


class StepRecorder:
    """Writes OUTPUT_DIR/replay/<iteration> when a step fails; see `d2kd replay`.

    Not for steps that never had a batch, nor for those that end with a `RunError` or an error of
    the system: what they computed is not to blame. Behind the first rank the folder's name ends
    with the rank.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        """Set the config, and the trained model without its DDP wrapper."""
        self._cfg, self._model = cfg, model
        self._limit = int(cfg.SOLVER.GUARD.REPLAY_MB * 1e6)
        self._moment = Moment(model)
        self._one = torch.ones((), device=next(model.parameters()).device)

    @contextlib.contextmanager
    def step(self, trainer: Any) -> Iterator[None]:
        """Around one step of a `DistillationTrainer`; what it raises passes."""
        if not (self._limit and self._cfg.OUTPUT_DIR):
            yield
            return
        self._begun = time.time()
        self._moment.take()
        self._scale = trainer._trainer.scaled(self._one)
        self._guard: Dict[str, Any] = trainer.guard.state_dict()
        trainer.guard.norm = 0.0  # of a step that fails before it
        try:
            yield
        except (RunError, OSError):
            raise
        except Exception as error:
            batch = trainer.batches.batch
            if batch is not None:
                self._try_to_write(trainer, batch, error)
            raise

    def _try_to_write(self, trainer: Any, batch: Batch, error: Exception) -> None:
        place = Path(self._cfg.OUTPUT_DIR, REPLAY)
        folders = [place / name_of(trainer.iter, i) for i in range(comm.get_world_size())]
        folder = folders[comm.get_rank()]
        try:
            size = self._write(trainer, batch, error, folder)
            logger.warning(
                "What the step computed with is in %s (%.1f MB): %s repeats it.",
                folder, size / 1e6, shell("d2kd", "replay", folder),
            )  # fmt: skip
        except Exception as other:  # noqa: BLE001 - the step's own error is what counts
            logger.warning("What the step computed with could not be written: %s", other)
        if isinstance(origin(error), FloatingPointError):
            _wait_for([x for x in folders if x != folder], self._begun)

    def _write(self, trainer: Any, batch: Batch, error: Exception, folder: Path) -> int:
        inner, losses = trainer._trainer, logged_losses(trainer.iter)
        missing: List[str] = []
        tried("statistics of its start", self._moment.put_back, None, missing)
        last = trainer.checkpointer.get_checkpoint_file()
        source = source_of(last, self._cfg.MODEL.WEIGHTS, folder)
        scaler = getattr(inner, "grad_scaler", None)
        step = FailedStep(
            self._cfg, trainer.iter, self._model, inner.optimizer, batch, self._moment,
            self._guard, losses, trainer.guard.norm, error,
            tried("the scale", partial(self._scaler, scaler), {}, missing) if scaler else {},
            missing,
        )  # fmt: skip
        return write_capsule(step, folder, source, self._limit)

    def _scaler(self, scaler: torch.amp.GradScaler) -> Dict[str, float]:
        """Its state, with the scale before the step, which may have lowered it."""
        state: Dict[str, float] = scaler.state_dict()
        return {**state, "scale": self._scale.item()} if state else {}


def _wait_for(folders: List[Path], begun: float) -> None:
    """Wait for the capsules of ranks that stop alike: the end of one ends the others.

    Args:
        folders: of the other ranks.
        begun: when the step began, s; what is older is of a run before.
    """
    end, records = time.monotonic() + _PATIENCE, [x / RECORD for x in folders]
    while time.monotonic() < end and not all(_is_newer(x, begun) for x in records):
        time.sleep(0.05)


def _is_newer(file: Path, begun: float) -> bool:
    return file.is_file() and file.stat().st_mtime >= begun - 1  # file systems round


def logged_losses(iteration: int) -> Dict[str, float]:
    """The losses of a step in the current storage, none where it failed before."""
    latest = get_event_storage().latest().items()
    return {k: x for k, (x, at) in latest if "loss" in k.split("_") and at == iteration}
