"""What a resumed run needs beyond the model, the optimizer and the schedule."""

import random
from typing import Any, Dict, List

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from ...detectors.loss_normalizer import Saved, averages_to_save, set_moving_averages
from ..metrics_file import MetricsFile

_WINDOW = 20  # of the medians that Detectron2's writers print
_STEPS = 2**20  # seeds of one run; those of neighbouring runs follow


class ExactResume(HookBase):
    """Makes a resumed run equal to one that was never interrupted.

    Random numbers of a step (sampled anchors and proposals, dropout, masks) depend on `SEED`, the
    iteration and the rank alone, so there is no state of a generator to keep. Saved with each
    checkpoint are the moving averages that normalize losses and the counts that weigh them, of
    every rank, and the values that the next medians in metrics.json are taken of. With another
    number of ranks, all of them go on with the first rank's averages. Values without a row in
    metrics.json get one as they would have.
    """

    def __init__(self, detector: nn.Module, seed: int, period: int, metrics: MetricsFile) -> None:
        """Set what is saved.

        Args:
            detector: the detector that is trained.
            seed: SEED; negative leaves the generators alone.
            period: iterations between checkpoints, 0 for the last one only.
            metrics: the file that the metrics are written to.
        """
        self._detector, self._seed, self._period = detector, seed, period
        self._metrics = metrics
        self._averages: List[Dict[str, Saved]] = []
        self._state: Dict[str, Any] = {}

    def before_train(self) -> None:
        """Put back the values of the metrics, and their file as it was."""
        if not self._state:
            return
        self._restore_values()
        if comm.is_main_process():
            self._restore_file()

    def _restore_values(self) -> None:
        """Those of versions without `hints` are for medians alone."""
        storage, hints = self.trainer.storage, self._state.get("hints")
        for name, values in self._state["histories"].items():
            for value, iteration in values:
                if hints is None:
                    storage.histories()[name].update(value, iteration)
                else:
                    storage.put_scalar(name, value, hints[name], cur_iter=iteration)

    def _restore_file(self) -> None:
        """Rows up to the checkpoint; a run that had ended and is prolonged keeps all."""
        done, position = self.trainer.start_iter, self._state.get("metrics")
        ended = self._state.get("max_iter") == done < self.trainer.max_iter
        if position is None or ended:
            self._metrics.keep(done)
        else:
            self._metrics.go_back(position)

    def before_step(self) -> None:
        """Seed the generators for this step."""
        if self._seed >= 0:
            step = self.trainer.iter * comm.get_world_size() + comm.get_rank()
            seed = (self._seed * _STEPS + step) % 2**32
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)

    def after_step(self) -> None:
        """Gather the ranks' averages where a checkpoint follows."""
        done = self.trainer.iter + 1
        due = self._period > 0 and done % self._period == 0
        if due or done >= self.trainer.max_iter:
            self.gather()

    def gather(self) -> None:
        """Gather the ranks' averages for a checkpoint; all ranks call it."""
        self._averages = comm.gather(averages_to_save(self._detector))

    def state_dict(self) -> Dict[str, Any]:
        """Averages by rank, and the last values of every metric."""
        storage = getattr(self.trainer, "storage", None)
        histories = storage.histories() if storage else {}
        last = {name: history.values()[-_WINDOW:] for name, history in histories.items()}
        return {
            "averages": self._averages,
            "histories": last,
            "hints": dict(storage.smoothing_hints()) if storage else {},
            "metrics": self._metrics.position,
            "max_iter": self.trainer.max_iter,
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Set the averages; metrics follow when training starts."""
        self._state, found = state, state["averages"]
        mine = comm.get_rank() if len(found) == comm.get_world_size() else 0
        set_moving_averages(self._detector, found[mine] if found else {})
