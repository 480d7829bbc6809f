"""Evaluators that Detectron2 lacks."""

from .coco import FastCOCOEvaluator
from .crowdhuman import CrowdHumanEvaluator, evaluated_class
from .quality import QualityEvaluator, QualityProbe

__all__ = [
    "CrowdHumanEvaluator",
    "FastCOCOEvaluator",
    "QualityEvaluator",
    "QualityProbe",
    "evaluated_class",
]
