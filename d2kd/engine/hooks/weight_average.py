"""A moving average of the trained weights, which is the model that a run gives."""

import copy
import itertools
import logging
from collections import defaultdict
from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...quantize import copy_ranges, load_with_ranges, with_ranges


class WeightAverage(HookBase):
    """Averages the detector's weights after each step, and gives it the average after the last.

    The average is evaluated, and is in `model_best.pth` and, the training over, `model_final.pth`.
    Other checkpoints hold the trained weights, with the average in this hook's state; the last one
    has it the other way round, so that every run can go on exactly. Put it in front of the hooks
    that write and evaluate.

    Buffers are averaged like parameters: batch norm's statistics then belong to the weights that
    they are used with, up to the order of the decay. The decay of step t is at most (1 + t) /
    (10 + t), so that the random weights of the start are soon forgotten. Ranges of quantization are
    averages already, and copied.
    """

    def __init__(self, detector: nn.Module, decay: float) -> None:
        """Set what is averaged.

        Args:
            detector: the detector that is trained, without projections and teachers.
            decay: part of the average that stays in a step, above 0, at most 1.
        """
        self._detector, self._decay = detector, decay
        self._average, self._steps = copy.deepcopy(detector), 0
        self._trained: Optional[Dict[str, Tensor]] = None  # once the detector has the average

    @property
    def detector(self) -> nn.Module:
        """A detector of its own with the average."""
        return self._average

    def before_train(self) -> None:
        """Begin with the weights that training begins with; a prolonged run has its own again."""
        start = self.trainer.start_iter
        if self._trained is not None and start < self.trainer.max_iter:
            load_with_ranges(self._detector, self._trained)
            self._trained = None
        if not self._steps:
            load_with_ranges(self.detector, with_ranges(self._detector))
        if start > 0 and not self._steps:
            logging.getLogger(__name__).warning(
                "SOLVER.EMA.DECAY: the run began without, so the average begins at step %d.", start
            )

    def after_step(self) -> None:
        """Average; after the last step the detector gets it."""
        self._update()
        self._steps += 1
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._trained = {k: v.clone() for k, v in with_ranges(self._detector).items()}
            load_with_ranges(self._detector, with_ranges(self.detector))

    @torch.no_grad()
    def _update(self) -> None:
        """Average by type; PyTorch's `AveragedModel` copies a count to the device, which waits."""
        ramp = min(self._decay, (1 + self._steps) / (10 + self._steps)) if self._steps else 0.0
        tensors = (itertools.chain(x.parameters(), x.buffers()) for x in
                   (self._average, self._detector))  # fmt: skip
        groups: Dict[torch.dtype, List[Tuple[Tensor, Tensor]]] = defaultdict(list)
        for average, weight in zip(*tensors, strict=True):
            groups[weight.dtype].append((average, weight))
        for pairs in groups.values():
            averages, weights = map(list, zip(*pairs, strict=True))
            if ramp:
                get_ema_multi_avg_fn(ramp)(averages, weights, self._steps)
            else:
                torch._foreach_copy_(averages, weights)
        copy_ranges(self._detector, self._average)

    def state_dict(self) -> Dict[str, Any]:
        """The steps so far, and whichever weights are not the detector's."""
        ended = self._trained is not None
        weights = self._trained if ended else with_ranges(self.detector)
        return {"steps": self._steps, "ended": ended, "weights": weights}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Go on from there; the detector has its part of the checkpoint already."""
        self._steps = state["steps"]
        self._trained = state["weights"] if state["ended"] else None
        average = with_ranges(self._detector) if state["ended"] else state["weights"]
        load_with_ranges(self.detector, average)
