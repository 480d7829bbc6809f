"""What a trainer is built of: d2kd's solver, data and evaluators."""

from typing import Any, Dict, Iterable, List

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from ..data import build_mapper, build_train_loader, load_dataset, loader_workers
from ..evaluation import build_evaluator
from ..quantize import quantize_student
from ..solver import build_lr_scheduler, build_optimizer


class Builders(DefaultTrainer):
    """The parts that Detectron2 lets a trainer replace."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The stock model; what is trained of it as MODEL.CHANNELS_LAST and QUANTIZE say."""
        model: nn.Module = super().build_model(cfg)
        detector: nn.Module = getattr(model, "student", model)
        quantize_student(detector, cfg)
        if cfg.MODEL.CHANNELS_LAST:
            detector.to(memory_format=torch.channels_last)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See `d2kd.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """See `d2kd.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[List[Dict[str, Any]]]:
        """See `d2kd.data.build_train_loader`."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader[Dict[str, Any]]:
        """Stock loader; an image that cannot be read is named, and never left out."""
        return build_detection_test_loader(
            dataset=load_dataset(dataset_name, "DATASETS.TEST"),
            mapper=build_mapper(cfg, is_train=False),
            num_workers=loader_workers(cfg),
        )

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a data set, by its `evaluator_type`; results go to OUTPUT_DIR."""
        return build_evaluator(cfg, dataset_name)
