"""What is found out about the teachers on the first batch, before it is trained on."""

import logging
from typing import Any, Dict, List

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from ...data import build_train_loader
from ...distiller import Distiller
from ...teachers.cache_estimate import estimate_cache
from ...teachers.precision import try_precision

logger = logging.getLogger(__name__)


class TeacherTrial(HookBase):
    """Settles the precision of teachers of PRECISION auto, and says what a cache will take.

    A resumed run keeps the precisions that it began with, wherever it goes on. All ranks have the
    same: bf16 where each of them could take it.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Set the config of the training."""
        self.cfg = cfg
        self._settled: List[str] = []

    def before_train(self) -> None:
        """Try the teachers on the batch that comes next."""
        distiller: Distiller = self.trainer.distiller
        for teacher, precision in zip(distiller.teachers, self._settled, strict=False):
            if teacher.undecided:
                teacher.settle(precision)
        if not any(x.undecided or x.cache is not None for x in distiller.teachers):
            return
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        batch = next(iter(build_train_loader(cfg, self.trainer.start_iter)))
        arguments = batch, distiller.divisor, distiller.input_format
        for index, teacher in enumerate(distiller.teachers):
            if not (need := distiller.panel.need(index)):
                continue
            if teacher.undecided:
                trial = try_precision(teacher, *arguments, need)
                found = comm.all_gather(trial.precision)
                teacher.settle("bf16" if set(found) == {"bf16"} else "fp32")
                logger.info("DISTILL.TEACHER.PRECISION auto, teacher %d: %s", index, trial)
            if teacher.cache is not None:
                pixels = teacher.preprocess(*arguments)
                nbytes = teacher.cache.size_of(pixels, need, teacher.run)
                images = len(self.trainer.data_loader.dataset.dataset)
                estimate = estimate_cache(self.cfg, images, nbytes)
                logger.info("Teacher cache: %s.", estimate.text(self.cfg))
        self._settled = [teacher.precision for teacher in distiller.teachers]

    def state_dict(self) -> Dict[str, Any]:
        """The precisions."""
        return {"precisions": self._settled}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Keep those."""
        self._settled = list(state["precisions"])
