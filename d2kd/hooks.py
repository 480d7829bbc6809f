"""Trainer hooks: schedule of the distillation, teacher check, gradient shares."""

import logging
import math
from typing import Dict, List

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.engine import HookBase
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .adapters import DetectorOutput
from .checks import ConfigError
from .teacher import Teacher


class DistillationSchedule(HookBase):
    """Scale of all distillation losses: a linear warm-up, full, then off after a last iteration."""

    def __init__(self, warmup_iters: int = 0, last_iter: int = -1) -> None:
        """Set the schedule.

        Args:
            warmup_iters: iterations over which the scale rises from 0 to 1.
            last_iter: last distilled iteration; -1 for no end.
        """
        self.warmup_iters, self.last_iter = warmup_iters, last_iter

    def scale_at(self, iteration: int) -> float:
        """The scale in [0, 1] at an iteration counted from 0."""
        if 0 <= self.last_iter < iteration:
            return 0.0
        return min(1.0, iteration / self.warmup_iters) if self.warmup_iters > 0 else 1.0

    def before_step(self) -> None:
        """Set the scale of this step."""
        self.trainer.distiller.scale = self.scale_at(self.trainer.iter)


class GradientShare(HookBase):
    """Logs `grad_norm/<loss>`, without "loss_": each loss's gradient norm at the FPN features.

    It is measured in the first distilled step and then every `period` steps (never again for 0),
    inside the forward, without another forward or a batch of its own. A distillation loss without
    gradient in the first step is reported with a warning: its head does not reach the student.
    """

    def __init__(self, period: int = 0) -> None:
        """Set the period in iterations."""
        self.period, self._checked = period, False

    def before_step(self) -> None:
        """Arm the probe for the steps that are measured."""
        distiller = self.trainer.distiller
        first = not self._checked and distiller.scale > 0
        due = self.period > 0 and self.trainer.iter % self.period == 0
        distiller.probes.pop("share", None)
        if first or due:
            distiller.probes["share"] = self.measure

    def state_dict(self) -> Dict[str, bool]:
        """Whether the first distilled step has been."""
        return {"checked": self._checked}

    def load_state_dict(self, state: Dict[str, bool]) -> None:
        """A resumed run does not check again."""
        self._checked = state["checked"]

    def measure(self, losses: Dict[str, Tensor], student: DetectorOutput) -> None:
        """Write the norms to the event storage; see the class."""
        norms = gradient_norms(losses, list(student.features.values()))
        for name, norm in norms.items():
            get_event_storage().put_scalar(f"grad_norm/{name.removeprefix('loss_')}", norm)
        if not self._checked and self.trainer.distiller.scale > 0:
            self._checked = True
            self._warn_of_zeros(norms)

    def _warn_of_zeros(self, norms: Dict[str, float]) -> None:
        for head, weight in self.trainer.distiller.weights.items():
            for name, norm in norms.items():
                if weight > 0 and norm == 0 and name.startswith(f"loss_{head}_"):
                    logging.getLogger(__name__).warning(
                        "%s has no gradient in the first distilled step: %s does not reach the "
                        "student's features.", name, head,
                    )  # fmt: skip


def gradient_norms(losses: Dict[str, Tensor], features: List[Tensor]) -> Dict[str, float]:
    """L2 norm of each loss's gradient with respect to a list of feature maps, taken together."""
    norms = {}
    for name, loss in losses.items():
        grads = [None]
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
        found = [g.float().norm() for g in grads if g is not None]
        norms[name] = torch.stack(found).norm().item() if found else 0.0
    return norms


class TeacherCheck(HookBase):
    """Evaluates each teacher on a few test images before training and stops below a threshold.

    Images have the resolution of the student's INPUT.MIN_SIZE_TEST, as distillation sees them.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Read DISTILL.TEACHER.CHECK_IMAGES and CHECK_MIN_AP; data is DATASETS.TEST[0].

        Raises:
            ConfigError: DATASETS.TEST is empty.
        """
        if not cfg.DATASETS.TEST:
            raise ConfigError(
                "DISTILL.TEACHER.CHECK_IMAGES evaluates teachers on images of DATASETS.TEST, which "
                "is empty: name a data set there, or set it to 0."
            )
        self.cfg = cfg

    def before_train(self) -> None:
        """Evaluate.

        Raises:
            ValueError: a teacher's box AP is under the threshold.
        """
        options = self.cfg.DISTILL.TEACHER
        for index, teacher in enumerate(self.trainer.distiller.teachers):
            ap = evaluate_teacher(teacher, self.cfg, options.CHECK_IMAGES)
            if not comm.is_main_process():
                continue
            logging.getLogger(__name__).info(
                "Teacher %d: box AP %.2f on %d images of %s",
                index, ap, options.CHECK_IMAGES, self.cfg.DATASETS.TEST[0],
            )  # fmt: skip
            if not ap >= options.CHECK_MIN_AP:
                raise ValueError(
                    f"Teacher {index} ({options.CONFIG_FILES[index]}) has box AP {ap:.2f}, under "
                    f"DISTILL.TEACHER.CHECK_MIN_AP = {options.CHECK_MIN_AP}. Check its weights, "
                    "INPUT.FORMAT and pixel statistics, and the order of the classes."
                )


def evaluate_teacher(teacher: Teacher, cfg: CfgNode, num_images: int) -> float:
    """Box AP (0 to 100) of a teacher on the first images of DATASETS.TEST[0]; nan off rank 0."""
    name = cfg.DATASETS.TEST[0]
    records = get_detection_dataset_dicts(name, filter_empty=False)[:num_images]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.FORMAT = teacher.input_format
    loader = build_detection_test_loader(
        dataset=records, mapper=DatasetMapper(cfg, False), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    evaluator = _SubsetEvaluator(name, tasks=("bbox",), use_fast_impl=False)
    evaluator.image_ids = [record["image_id"] for record in records]
    with teacher.autocast():
        results = inference_on_dataset(teacher.detector, loader, evaluator)
    ap = results["bbox"]["AP"] if results else float("nan")
    return 0.0 if math.isnan(ap) and results else ap


class _SubsetEvaluator(COCOEvaluator):
    image_ids: List[int] = []

    def evaluate(self, img_ids: List[int] | None = None) -> dict:
        return super().evaluate(img_ids=self.image_ids)
