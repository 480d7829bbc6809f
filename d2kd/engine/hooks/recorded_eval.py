"""Evaluations in a training, of which a resumed run repeats none that was complete."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from detectron2.config import CfgNode
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from ...errors import ConfigError
from ...file_io import read_json, write_atomically
from ..provenance import dataset_fingerprint
from ..ranks import on_first_rank

NAME = "last_evaluation.json"
OF_TRAINING = "distill"  # beside the tasks of an evaluation, what only the training knows


class RecordedEval(EvalHook):
    """Detectron2's hook, with the last evaluation in OUTPUT_DIR/last_evaluation.json.

    A run that is resumed where an evaluation was due takes it from there; if a kill came before its
    end, or the config or the test data have changed, it evaluates again.
    """

    def __init__(self, cfg: CfgNode, evaluate: Callable[[], Dict[str, Any]]) -> None:
        """Set how to evaluate; all ranks call it, and the first gets the measures."""
        super().__init__(cfg.TEST.EVAL_PERIOD, self._results)
        self._cfg, self._evaluate = cfg, evaluate
        self._path = Path(cfg.OUTPUT_DIR, NAME)
        self._known: Optional[Dict[str, Any]] = None

    def before_train(self) -> None:
        """Read the record; one of other steps than the checkpoint's is removed."""
        self._known = on_first_rank(self._read)

    def _read(self) -> Optional[Dict[str, Any]]:
        try:
            record = read_json(self._path)
            if record["steps"] == self.trainer.start_iter and record["of"] == self._identity():
                return record["results"]
        except (ConfigError, KeyError, TypeError):
            pass  # there is none, or it is damaged
        self._path.unlink(missing_ok=True)
        return None

    def _results(self) -> Dict[str, Any]:
        known, self._known = self._known, None
        if known is None:
            logging.getLogger(__name__).info("Evaluation on %s", ", ".join(self._cfg.DATASETS.TEST))
        results = self._evaluate() if known is None else known if comm.is_main_process() else {}
        measures = {task: x for task, x in results.items() if task != OF_TRAINING}
        self.trainer._last_eval_results = measures  # what any evaluation of the detector gives
        if known is None and results:
            steps = min(self.trainer.iter + 1, self.trainer.max_iter)
            record = {"steps": steps, "of": self._identity(), "results": results}
            text = json.dumps(record, indent=1, default=float)
            write_atomically(self._path, lambda part: part.write_text(text))
        return results

    def _identity(self) -> str:
        """SHA-256 of the config and the test data."""
        data = [dataset_fingerprint(name) for name in self._cfg.DATASETS.TEST]
        return hashlib.sha256(json.dumps([self._cfg.dump(), data]).encode()).hexdigest()
