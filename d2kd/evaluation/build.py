"""The evaluator of a data set."""

import os

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator

from ..errors import ConfigError
from ..text import file_name
from .coco import FastCOCOEvaluator
from .crowdhuman import CrowdHumanEvaluator


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of a data set, by its `evaluator_type`; results go to OUTPUT_DIR.

    Raises:
        ConfigError: there is none for that type.
    """
    kind = evaluator_type(dataset_name)
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if kind == "crowdhuman":
        return CrowdHumanEvaluator(dataset_name)
    if kind != "coco":
        raise ConfigError(
            f"DATASETS.TEST: {dataset_name!r} has evaluator_type {kind!r}; known: coco, "
            "crowdhuman, pascal_voc. Override DistillationTrainer.build_evaluator for others."
        )
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", file_name(dataset_name))
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    return FastCOCOEvaluator(dataset_name, output_dir=folder, kpt_oks_sigmas=sigmas)


def evaluator_type(dataset_name: str) -> str:
    """`evaluator_type` of a registered data set, "coco" by default."""
    return MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
