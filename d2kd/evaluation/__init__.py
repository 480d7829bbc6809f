"""Evaluators that Detectron2 lacks."""

from .adversarial import AttackedDetector, fgsm, projected_gradient
from .build import build_evaluator, evaluator_type
from .coco import FastCOCOEvaluator
from .corruptions import corrupt_image, corrupted_mapper, corruption_summary
from .crowdhuman import CrowdHumanEvaluator, evaluated_class
from .domain_shift import MappedEvaluator, map_classes
from .groups import ErrorEvaluator
from .quality import QualityEvaluator, QualityProbe
from .records import RecordsEvaluator

__all__ = [
    "AttackedDetector",
    "CrowdHumanEvaluator",
    "ErrorEvaluator",
    "FastCOCOEvaluator",
    "MappedEvaluator",
    "QualityEvaluator",
    "QualityProbe",
    "RecordsEvaluator",
    "corrupt_image",
    "corrupted_mapper",
    "corruption_summary",
    "fgsm",
    "map_classes",
    "projected_gradient",
    "build_evaluator",
    "evaluated_class",
    "evaluator_type",
]
