"""Evaluators that Detectron2 lacks."""

from .quality import QualityEvaluator, QualityProbe

__all__ = ["QualityEvaluator", "QualityProbe"]
