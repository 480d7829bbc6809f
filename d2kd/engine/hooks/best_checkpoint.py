"""The checkpoint of the best evaluation so far."""

import json
from pathlib import Path
from typing import Optional

from detectron2.engine.hooks import BestCheckpointer
from torch import nn

from ...checkpoint import SafeCheckpointer
from ...checkpoint.of_run import BEST, read_best
from ...evaluation.best_f1 import point_of
from ...file_io import write_atomically
from ...quantize import beside


class BestStudent(BestCheckpointer):
    """Writes `model_best.pth`, a plain detector, at each evaluation that is better than all before.

    Value, iteration and `best_f1` are in `model_best.json`, which a resumed run goes on from. It is
    registered on the first rank alone, behind `EvalHook`.
    """

    def __init__(self, period: int, metric: str, model: nn.Module, folder: str) -> None:
        """Set what is compared.

        Args:
            period: TEST.EVAL_PERIOD, iterations.
            metric: a name in metrics.json that grows with quality, for example "bbox/AP".
            model: the trained model, maybe within DDP.
            folder: OUTPUT_DIR.
        """
        ranges = beside(getattr(model, "module", model))
        checkpointer = _UntaggedCheckpointer(model, folder, **ranges)
        super().__init__(period, checkpointer, metric, file_prefix=BEST)
        self._folder, self._metric = Path(folder), metric

    def before_train(self) -> None:
        """Go on from the record of the run that is resumed."""
        record = read_best(self._folder) if self.trainer.start_iter > 0 else None
        if record and record["metric"] == self._metric:
            self.best_metric, self.best_iter = record["value"], record["iteration"]

    def after_step(self) -> None:
        """Compare, where an evaluation has been."""
        before = self.best_iter
        super().after_step()
        self._write_record(before)

    def after_train(self) -> None:
        """Compare the last evaluation."""
        before = self.best_iter
        super().after_train()
        self._write_record(before)

    def _write_record(self, before: Optional[int]) -> None:
        if self.best_iter == before:
            return
        step = min(self.best_iter + 1, self.trainer.max_iter)  # the last evaluation is one later
        record = {
            "metric": self._metric,
            "value": self.best_metric,
            "iteration": self.best_iter,
            "step": step,
            "best_f1": point_of(getattr(self.trainer, "_last_eval_results", {})),
        }
        path = self._folder / f"{BEST}.json"
        write_atomically(path, lambda part: part.write_text(json.dumps(record)))


class _UntaggedCheckpointer(SafeCheckpointer):
    """The best checkpoint is not the last one, from which a run is resumed."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass
