"""Steps that would spoil the weights are stopped or skipped, and counted."""

import logging
import statistics
from collections import deque
from typing import Any, Deque, Dict, List

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ...errors import check_choice

_WINDOW = 100  # accepted steps whose median norm is the usual one
_MAX_SKIPPED = 50  # in a row; mixed precision needs about 20 to find its scale
_REACTIONS = ("stop", "skip")


class GradientGuard(HookBase):
    """Looks at all gradients between backward and the optimizer's step.

    A skipped step changes no weight and no momentum; `skipped_steps` counts them in metrics.json.
    The gradients are those after DDP's all-reduce, so all ranks decide alike. In mixed precision
    infinite gradients are usual, the scaler skips them itself, and here they are only counted.
    Register it on the step's trainer (`trainer._trainer`), which calls `after_backward`.

    Attributes:
        norm: L2 norm of all gradients of the last step.
    """

    def __init__(
        self,
        non_finite: str = "stop",
        spike: float = 0.0,
        on_spike: str = "skip",
        amp: bool = False,
    ) -> None:
        """Set what is done; see SOLVER.GUARD, with `amp` for mixed precision.

        Raises:
            ConfigError: an unknown `non_finite` or `on_spike`.
        """
        check_choice(non_finite, _REACTIONS, "SOLVER.GUARD.NON_FINITE")
        check_choice(on_spike, _REACTIONS, "SOLVER.GUARD.ON_SPIKE")
        self.stop, self.spike, self.amp = non_finite == "stop" and not amp, spike, amp
        self.stop_at_spike = on_spike == "stop"
        self.skipped, self._in_a_row, self._broken = 0, 0, ""
        self.norm = 0.0
        self._norms: Deque[float] = deque(maxlen=_WINDOW)

    def after_backward(self) -> None:
        """Look at the gradients; nothing is raised, so that a loss that is NaN is named first."""
        grads = [p.grad for p in self._parameters() if p.grad is not None]
        self.norm = norm = gradient_norm(grads)
        if not norm < float("inf"):
            self._on_non_finite()
        elif self.spike and len(self._norms) == _WINDOW and norm > self.spike * self._usual():
            self._on_spike()
        else:
            self._in_a_row = 0
            self._norms.append(norm)
        if self.skipped:
            get_event_storage().put_scalar("skipped_steps", self.skipped, smoothing_hint=False)

    def check(self) -> None:
        """Raise what was found, behind the step that it has emptied.

        Raises:
            FloatingPointError: a gradient is NaN, infinite or a spike and must not be skipped, or
                too many steps in a row were.
        """
        if self._broken:
            raise FloatingPointError(
                f"{self._broken} at iteration {self.trainer.iter}, step {self._in_a_row} of such "
                "steps in a row; the weights are as before it. Lower SOLVER.BASE_LR, set "
                f"SOLVER.CLIP_GRADIENTS.ENABLED True, or skip such steps with {self._skips} skip."
            )

    def state_dict(self) -> Dict[str, Any]:
        """The count and the usual norms."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "norms": list(self._norms)}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
        self._norms.extend(state["norms"])

    def _on_non_finite(self) -> None:
        names = self._non_finite() or "all parameters together (their norm)"
        self._skip()
        if self.stop or self._in_a_row > _MAX_SKIPPED:
            self._broken = f"the gradients of {names} are NaN or infinite"
            self._skips = "SOLVER.GUARD.NON_FINITE"
        elif not self.amp:
            logging.getLogger(__name__).warning(
                "Iteration %d is skipped: the gradients of %s are NaN or infinite.",
                self.trainer.iter, names,
            )  # fmt: skip

    def _on_spike(self) -> None:
        text = (
            f"its gradient norm {self.norm:.3g} is over {self.spike:.3g} times the usual "
            f"{self._usual():.3g} (SOLVER.GUARD.SPIKE)"
        )
        self._skip()
        if self.stop_at_spike or self._in_a_row > _MAX_SKIPPED:
            self._broken, self._skips = f"the step is a spike, {text}", "SOLVER.GUARD.ON_SPIKE"
        else:
            logging.getLogger(__name__).warning(
                "Iteration %d is skipped: %s.", self.trainer.iter, text
            )

    def _skip(self) -> None:
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        if not self.amp:
            for parameter in self._parameters():
                parameter.grad = None

    def _usual(self) -> float:
        return statistics.median(self._norms)

    def _parameters(self) -> List[Tensor]:
        return [p for group in self.trainer.optimizer.param_groups for p in group["params"]]

    def _non_finite(self) -> str:
        names = [
            name.removeprefix("module.")
            for name, p in self.trainer.model.named_parameters()
            if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more


def gradient_norm(grads: List[Tensor]) -> float:
    """L2 norm of all gradients together; NaN or infinite if one value is."""
    if not grads:
        return 0.0
    return torch.stack(torch._foreach_norm(grads)).norm().item()
