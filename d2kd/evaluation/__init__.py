"""Evaluators that Detectron2 lacks."""

from .crowdhuman import CrowdHumanEvaluator, evaluated_class
from .quality import QualityEvaluator, QualityProbe

__all__ = ["CrowdHumanEvaluator", "QualityEvaluator", "QualityProbe", "evaluated_class"]
