"""Evaluators that Detectron2 lacks."""

from .crowdhuman import CrowdHumanEvaluator
from .quality import QualityEvaluator, QualityProbe

__all__ = ["CrowdHumanEvaluator", "QualityEvaluator", "QualityProbe"]
