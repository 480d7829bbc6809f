"""The share of each loss in the gradient at the student's features."""

import logging
import math
from typing import Dict, List, Optional, Sequence

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ...adapters import DetectorOutput
from ...losses.reduce import l2_norm, mean_over_ranks

_SCALES = (2.0**16, 2.0**8, 1.0)  # the first that does not overflow float16


class GradientShare(HookBase):
    """Logs `grad_norm/<loss>`, without "loss_": each loss's gradient norm at the FPN features.

    It is measured in the first distilled step and then every `period` steps (never again for 0),
    inside the forward, without another forward or a batch of its own. A distillation loss without
    gradient in the first step is reported with a warning: its head does not reach the student.
    """

    def __init__(self, period: int = 0) -> None:
        """Set the period in iterations."""
        self.period, self._checked = period, False

    def before_step(self) -> None:
        """Arm the probe for the steps that are measured."""
        distiller = self.trainer.distiller
        first = not self._checked and distiller.scale > 0
        due = self.period > 0 and self.trainer.iter % self.period == 0
        distiller.probes.pop("share", None)
        if first or due:
            distiller.probes["share"] = self.measure

    def state_dict(self) -> Dict[str, bool]:
        """Whether the first distilled step has been."""
        return {"checked": self._checked}

    def load_state_dict(self, state: Dict[str, bool]) -> None:
        """A resumed run does not check again."""
        self._checked = state["checked"]

    def measure(self, losses: Dict[str, Tensor], student: DetectorOutput) -> None:
        """Write the norms to the event storage; see the class."""
        norms = gradient_norms(losses, list(student.features.values()))
        for name, norm in norms.items():
            get_event_storage().put_scalar(f"grad_norm/{name.removeprefix('loss_')}", norm)
        if not self._checked and self.trainer.distiller.scale > 0:
            self._checked = True
            self._warn_of_zeros(norms)

    def _warn_of_zeros(self, norms: Dict[str, float]) -> None:
        for head, weight in self.trainer.distiller.weights.items():
            for name, norm in norms.items():
                if weight > 0 and norm == 0 and name.startswith(f"loss_{head}_"):
                    logging.getLogger(__name__).warning(
                        "%s has no gradient in the first distilled step: %s does not reach the "
                        "student's features.", name, head,
                    )  # fmt: skip


def gradient_norms(losses: Dict[str, Tensor], features: List[Tensor]) -> Dict[str, float]:
    """L2 norm of each loss's gradient with respect to a list of feature maps, taken together.

    Where a map is float16, losses are scaled up for the backward pass, as training does it: small
    gradients would become 0 on the way. All ranks take the same scale, the first at which nothing
    overflows on any of them, as a backward pass may send and receive.
    """
    half = any(x.dtype == torch.float16 for x in features)
    norms = {name: 0.0 for name in losses}
    for name, loss in losses.items():
        for scale in _SCALES if half else (1.0,):
            norms[name] = _gradient_norm(loss * scale, features) / scale
            if not half or not _on_any_rank(not math.isfinite(norms[name]), features[0].device):
                break
    return norms


def _on_any_rank(value: bool, device: torch.device) -> bool:
    return bool(mean_over_ranks(torch.tensor(float(value), device=device)) > 0)


def _gradient_norm(loss: Tensor, features: List[Tensor]) -> float:
    grads: Sequence[Optional[Tensor]] = ()
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
    found = [l2_norm(g.float()) for g in grads if g is not None]
    return torch.stack(found).norm().item() if found else 0.0
