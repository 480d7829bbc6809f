"""Detectron2's steps, whose losses come to the host in one copy."""

import contextlib
from typing import Any, ContextManager, Dict, Mapping

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import Tensor


class _InOneCopy(SimpleTrainer):
    """Stock ones copy each loss, and the host waits for each."""

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        super()._write_metrics(to_host(loss_dict), *args, **kwargs)


class Step(_InOneCopy):
    """Of `SimpleTrainer`."""

    def autocast(self) -> ContextManager[None]:
        """The context of the forward pass."""
        return contextlib.nullcontext()

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, a scalar, as its gradient is computed; waits for no device."""
        return loss

    def update(self) -> None:
        """Change the weights by the gradients of `scaled`."""
        self.optimizer.step()


class MixedStep(_InOneCopy, AMPTrainer):
    """Of `AMPTrainer`, in mixed precision."""

    def autocast(self) -> ContextManager[None]:
        """The context of the forward pass, as `run_step` has it."""
        context: ContextManager[None] = torch.cuda.amp.autocast(dtype=self.precision)
        return context

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, a scalar, times the current scale; waits for no device."""
        found: Tensor = self.grad_scaler.scale(loss)
        return found

    def update(self) -> None:
        """Change the weights by the gradients of `scaled`, if these are finite, and the scale."""
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


def to_host(losses: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Scalars on the CPU, in float64, which holds those of every type as they are."""
    together = torch.stack([x.detach().double() for x in losses.values()]).cpu()
    return dict(zip(losses, together, strict=True))
