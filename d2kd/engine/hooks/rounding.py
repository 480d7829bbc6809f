"""When the layers of a quantized student round, and the ranges that ranks share."""

from detectron2.engine import HookBase
from torch import nn

from ...quantize import set_rounding, share_ranges


class Rounding(HookBase):
    """Lets a quantized detector, and the average of its weights, round from an iteration on."""

    def __init__(self, evaluated: nn.Module, detector: nn.Module, start: int) -> None:
        """Set what rounds.

        Args:
            evaluated: the detector, or the average of its weights.
            detector: the detector that is trained.
            start: QUANTIZE.START.
        """
        self._detectors, self._start = (detector, evaluated), start

    def before_train(self) -> None:
        """As in the step before; a resumed run may evaluate that again."""
        self._set(self.trainer.start_iter - 1)

    def before_step(self) -> None:
        """Begin, if it is time."""
        self._set(self.trainer.iter)

    def after_step(self) -> None:
        """Let ranks have the same ranges."""
        share_ranges(self._detectors[0])

    def _set(self, iteration: int) -> None:
        for detector in self._detectors:
            set_rounding(detector, iteration >= self._start)
