"""A teacher is evaluated before it teaches."""

import logging
import math

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import HookBase
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm

from ...data import build_mapper, load_dataset, loader_workers
from ...errors import ConfigError
from ...evaluation.records import RecordsEvaluator
from ...teachers.teacher import Teacher


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
    records = load_dataset(name, "DATASETS.TEST")[:num_images]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.FORMAT = teacher.input_format
    loader = build_detection_test_loader(
        dataset=records, mapper=build_mapper(cfg, False), num_workers=loader_workers(cfg)
    )
    evaluator = RecordsEvaluator(records, MetadataCatalog.get(name).thing_classes)
    with teacher.autocast():
        results = inference_on_dataset(teacher.detector, loader, evaluator)
    ap = results["bbox"]["AP"] if results else float("nan")
    return 0.0 if math.isnan(ap) and results else ap
