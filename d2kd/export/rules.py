"""Which inference can be exported: how each detector scores, selects and clips its boxes."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Tuple

from detectron2.modeling.meta_arch import fcos
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from torch import Tensor

from ..detectors.auto_assign import AutoAssign
from ..detectors.cells import CellDetector
from ..detectors.fcos import FCOS
from ..detectors.inference import with_quality

Scores = Tuple[Tensor, Tensor]
"""Scores that select candidates, and those that they are suppressed and reported by, (n, K)."""


@dataclass(frozen=True)
class Rule:
    """What a `forward_inference` does with scores and boxes.

    Attributes:
        rescore: class scores (n, K) in [0, 1] and quality logits (n, 1) to both kinds of scores;
            None where both are the class scores.
        clip_first: boxes are clipped to the image before NMS, not after.
    """

    rescore: Optional[Callable[[Tensor, Tensor], Scores]]
    clip_first: bool


def _geometric_mean(scores: Tensor, quality: Tensor) -> Scores:
    mean = with_quality(scores, quality).sqrt()
    return mean, mean


def _product(scores: Tensor, quality: Tensor) -> Scores:
    return scores, with_quality(scores, quality)


def _joint(scores: Tensor, quality: Tensor) -> Scores:
    joint = with_quality(scores, quality)
    return joint, joint


_AUTO_ASSIGN = {"product": Rule(_product, True), "joint": Rule(_joint, False)}
_FCOS = {"sqrt": Rule(_geometric_mean, False), "product": Rule(_product, True)}
RULES: Dict[Callable[..., Any], Callable[[DenseDetector], Rule]] = {
    RetinaNet.forward_inference: lambda detector: Rule(None, False),
    fcos.FCOS.forward_inference: lambda detector: _FCOS["sqrt"],
    FCOS.forward_inference: lambda detector: _FCOS[detector.score],
    AutoAssign.forward_inference: lambda detector: _AUTO_ASSIGN[detector.score],
    CellDetector.forward_inference: lambda detector: Rule(
        _product if detector.rescore else None, True
    ),
}
"""By the method that a dense detector infers with."""


def rule_of(detector: DenseDetector) -> Rule:
    """The rule of a detector's inference, which is in `RULES`."""
    return RULES[type(detector).forward_inference](detector)
